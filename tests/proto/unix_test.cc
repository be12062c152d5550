#include "proto/unix.hpp"

#include <cstdio>
#include <cstdlib>
#include <string>

#include <doctest/doctest.h>
#include <poll.h>
#include <sys/socket.h>

#include "support/net.hpp"

namespace {

using namespace weir;
using namespace support;

std::string parsed(std::string_view text) {
    const auto at = parse_unix(text);
    if (!at) return "error " + std::to_string(at.error());
    char room[endpoint::text_max];
    return std::string{at.value().text(room)};
}

// A directory of the test's own.
struct directory {
    directory() { REQUIRE(mkdtemp(name) != nullptr); }
    directory(const directory&) = delete;
    directory& operator=(const directory&) = delete;
    ~directory() {
        unlink(socket_path().c_str());
        rmdir(name);
    }
    std::string socket_path() const { return std::string{name} + "/s"; }
    endpoint at() const {
        const auto e = endpoint::unix_path(socket_path());
        REQUIRE(e.ok());
        return e.value();
    }
    char name[32] = "/tmp/weir-unix-XXXXXX";
};

bool exists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

TEST_CASE("a path, or an abstract name") {
    CHECK(parsed("unix:/run/x.sock") == "unix:/run/x.sock");
    CHECK(parsed("unix:x") == "unix:x");
    CHECK(parsed("unix:@name") == "unix:@name");
    CHECK(parsed("unix:/with:colon and space") == "unix:/with:colon and space");
}

TEST_CASE("what does not begin with unix: or names nothing is EINVAL") {
    const std::string invalid = "error " + std::to_string(EINVAL);
    for (const char* text : {"", "unix", "unix:", "unix:@", "UNIX:/x", "/run/x.sock", " unix:/x", "tcp:/x"}) {
        CAPTURE(text);
        CHECK(parsed(text) == invalid);
    }
}

TEST_CASE("a path has at most 107 bytes, an abstract name too") {
    CHECK(parsed("unix:" + std::string(107, 'x')) == "unix:" + std::string(107, 'x'));
    CHECK(parsed("unix:" + std::string(108, 'x')) == "error " + std::to_string(ENAMETOOLONG));
    CHECK(parsed("unix:@" + std::string(106, 'x')) == "unix:@" + std::string(106, 'x'));
    CHECK(parsed("unix:@" + std::string(107, 'x')) == "error " + std::to_string(ENAMETOOLONG));
}

TEST_CASE("the longest path can be listened at and connected to") {
    directory dir;
    const std::string path = std::string{dir.name} + "/" + std::string(107 - sizeof "/tmp/weir-unix-XXXXXX", 's');
    const auto at = endpoint::unix_path(path);
    REQUIRE(at.ok());

    auto listener = unix_stream.listen(at.value(), {});
    REQUIRE(listener.ok());
    CHECK(unix_stream.connect(at.value(), {}).ok());

    CHECK(path.size() == 107);
    unlink(path.c_str());
}

TEST_CASE("a path that nobody uses is listened at") {
    directory dir;

    auto listener = unix_stream.listen(dir.at(), {});

    REQUIRE(listener.ok());
    auto client = unix_stream.connect(dir.at(), {});
    REQUIRE(client.ok());
    CHECK_FALSE(client.value().pending);
    const descriptor accepted(::accept(listener.value().get(), nullptr, nullptr));
    CHECK(accepted.get() >= 0);
}

TEST_CASE("an abandoned path is taken over") {
    directory dir;
    {
        auto before = unix_stream.listen(dir.at(), {});
        REQUIRE(before.ok());
    }
    REQUIRE(exists(dir.socket_path()));

    auto listener = unix_stream.listen(dir.at(), {});

    REQUIRE(listener.ok());
    CHECK(unix_stream.connect(dir.at(), {}).ok());
}

TEST_CASE("a path where somebody listens is EADDRINUSE, and he goes on listening") {
    directory dir;
    auto first = unix_stream.listen(dir.at(), {});
    REQUIRE(first.ok());

    CHECK(unix_stream.listen(dir.at(), {}).error() == EADDRINUSE);

    CHECK(unix_stream.connect(dir.at(), {}).ok());
}

TEST_CASE("a path whose listener has a full backlog is in use, not abandoned") {
    directory dir;
    auto first = unix_stream.listen(dir.at(), {.backlog_count = 0});
    REQUIRE(first.ok());
    auto filler = unix_stream.connect(dir.at(), {});
    REQUIRE(filler.ok());
    REQUIRE(unix_stream.connect(dir.at(), {}).error() == EAGAIN);

    CHECK(unix_stream.listen(dir.at(), {}).error() == EADDRINUSE);

    CHECK(exists(dir.socket_path()));
}

TEST_CASE("a file, a directory or a link at the path is left alone") {
    for (const char what : {'f', 'd', 'l'}) {
        CAPTURE(what);
        directory dir;
        const std::string path = dir.socket_path();
        if (what == 'f') std::fclose(std::fopen(path.c_str(), "w"));
        if (what == 'd') REQUIRE(mkdir(path.c_str(), 0700) == 0);
        if (what == 'l') REQUIRE(symlink("nowhere", path.c_str()) == 0);

        CHECK(unix_stream.listen(dir.at(), {}).error() == EADDRINUSE);

        struct stat is;
        CHECK(lstat(path.c_str(), &is) == 0);
        if (what == 'd') rmdir(path.c_str());
    }
}

TEST_CASE("a path that cannot be is refused with the reason") {
    const auto at = endpoint::unix_path("/nonexistent/dir/s");
    REQUIRE(at.ok());

    CHECK(unix_stream.listen(at.value(), {}).error() == ENOENT);
    CHECK(unix_stream.connect(at.value(), {}).error() == ENOENT);
}

TEST_CASE("an abstract name that is taken is EADDRINUSE, and free with its listener's end") {
    const auto at = endpoint::unix_path("@weir-unix-test-" + std::to_string(getpid()));
    REQUIRE(at.ok());
    {
        auto first = unix_stream.listen(at.value(), {});
        REQUIRE(first.ok());
        CHECK(unix_stream.listen(at.value(), {}).error() == EADDRINUSE);
    }

    CHECK(unix_stream.listen(at.value(), {}).ok());
}

// --- draining

TEST_CASE("a drain throws away everything and says that it must wait") {
    pair ends = stream_pair();
    send_all(ends.a.get(), std::string(50'000, 'x'));

    const drain_result r = unix_stream.drain(ends.b.get(), 1 << 20);

    CHECK(r.end == drained::again);
    CHECK(r.bytes == 50'000);
    CHECK_FALSE(ready(ends.b.get(), POLLIN));
}

TEST_CASE("a drain goes no further than it may, and says that there may be more") {
    pair ends = stream_pair();
    send_all(ends.a.get(), std::string(100, 'x'));
    CHECK(ready(ends.b.get(), POLLIN));

    const drain_result r = unix_stream.drain(ends.b.get(), 50);

    CHECK(r.end == drained::more);
    CHECK(r.bytes >= 50);
}

TEST_CASE("a drain finds the end behind bytes, and without") {
    for (const std::size_t count : {std::size_t{0}, std::size_t{50'000}}) {
        pair ends = stream_pair();
        send_all(ends.a.get(), std::string(count, 'x'));
        ends.a.close();

        const drain_result r = unix_stream.drain(ends.b.get(), 1 << 20);

        CHECK(r.end == drained::closed);
        CHECK(r.bytes == count);
    }
}

} // namespace
