#include <doctest/doctest.h>

#include <bit>
#include <string>
#include <string_view>

#include "proto/http1_head.hpp"
#include "proto/http1_reuse.hpp"

using namespace weir;

namespace {

// Takes one fact after another off a number that counts through all combinations.
struct digits {
    unsigned long left;
    bool flag() { return take(2) != 0; }
    unsigned long take(unsigned long base) {
        const unsigned long digit = left % base;
        left /= base;
        return digit;
    }
};

// The number of the first true, counted from 1; 0 when none is.
template <class... Bools>
unsigned first_of(Bools... bools) {
    unsigned mask = 0, place = 0;
    ((mask |= static_cast<unsigned>(bools) << place++), ...);
    return mask == 0 ? 0 : static_cast<unsigned>(std::countr_zero(mask)) + 1;
}

http1_server_facts server_facts(unsigned long number) {
    digits d{number};
    return {.switched = d.flag(),
            .failed = d.flag(),
            .peer_shut = d.flag(),
            .request_written = d.flag(),
            .early_response = d.flag(),
            .response_complete = d.flag(),
            .surplus = d.flag(),
            .user_bound = d.flag(),
            .framing = static_cast<http1_body_kind>(d.take(4)),
            .version = static_cast<http1_version>(d.take(2)),
            .close_asked = d.flag(),
            .keep_alive_asked = d.flag(),
            .close_sent = d.flag(),
            .draining = d.flag()};
}

http1_client_facts client_facts(unsigned long number) {
    digits d{number};
    return {.switched = d.flag(),
            .failed = d.flag(),
            .peer_shut = d.flag(),
            .pipelined = d.flag(),
            .request_complete = d.flag(),
            .response_complete = d.flag(),
            .response_written = d.flag(),
            .framing = static_cast<http1_body_kind>(d.take(4)),
            .version = static_cast<http1_version>(d.take(2)),
            .close_asked = d.flag(),
            .close_sent = d.flag(),
            .keep_alive_asked = d.flag(),
            .keep_alive_sent = d.flag(),
            .draining = d.flag(),
            .uses_spent = d.flag()};
}

constexpr unsigned long server_count = (1UL << 11) * 4 * 2;
constexpr unsigned long client_count = (1UL << 13) * 4 * 2;

http1_server_facts parkable() {
    return {.request_written = true,
            .response_complete = true,
            .framing = http1_body_kind::length,
            .version = http1_version::v1_1};
}

http1_client_facts stayable() {
    return {.request_complete = true,
            .response_complete = true,
            .response_written = true,
            .framing = http1_body_kind::chunked,
            .version = http1_version::v1_1};
}

http1_head parsed(http1_kind kind, std::string_view bytes) {
    http1_head head;
    head.start(kind);
    REQUIRE(head.parse(bytes) == http1_head::progress::done);
    return head;
}

} // namespace

TEST_CASE("a server connection is parked exactly when every rule of the idle pool allows it") {
    unsigned long parked = 0;
    for (unsigned long number = 0; number < server_count; ++number) {
        const http1_server_facts f = server_facts(number);
        const http1_server_verdict verdict = server_verdict(f);

        const bool http = !f.switched && !f.failed && !f.peer_shut;
        const bool over = f.request_written && f.response_complete && !f.early_response && !f.surplus && !f.user_bound;
        const bool framed = f.framing != http1_body_kind::until_close;
        const bool agreed = !f.close_asked && (f.version == http1_version::v1_1 || f.keep_alive_asked);
        const bool park = http && over && framed && agreed && !f.close_sent && !f.draining;
        const unsigned reason = first_of(f.switched, f.failed, f.peer_shut, !f.request_written, f.early_response,
                                         !f.response_complete, !framed, f.surplus, f.user_bound, f.close_asked,
                                         f.version == http1_version::v1_0 && !f.keep_alive_asked, f.close_sent,
                                         f.draining);
        if ((verdict == http1_server_verdict::park) != park) FAIL("facts number " << number);
        if (static_cast<unsigned>(verdict) != reason) FAIL("facts number " << number);
        parked += park;
    }
    CHECK(parked == 3 * 3); // three framings; 1.1, 1.1 with keep-alive, 1.0 with keep-alive
}

TEST_CASE("a client connection stays exactly when its exchange is over and both sides expect another") {
    unsigned long stayed = 0;
    for (unsigned long number = 0; number < client_count; ++number) {
        const http1_client_facts f = client_facts(number);
        const http1_client_verdict verdict = client_verdict(f);

        const bool http = !f.switched && !f.failed;
        const bool over = f.request_complete && f.response_complete && f.response_written;
        const bool framed = f.framing != http1_body_kind::until_close;
        const bool another = !f.peer_shut || f.pipelined;
        const bool old = f.version == http1_version::v1_0;
        const bool agreed =
            !f.close_asked && !f.close_sent && (!old || (f.keep_alive_asked && f.keep_alive_sent));
        const bool stay = http && over && framed && another && agreed && !f.draining && !f.uses_spent;
        const unsigned reason =
            first_of(f.switched, f.failed, !f.request_complete, !f.response_complete, !f.response_written,
                     !framed, !another, f.close_asked, f.close_sent,
                     old && !(f.keep_alive_asked && f.keep_alive_sent), f.draining, f.uses_spent);
        if ((verdict == http1_client_verdict::stay) != stay) FAIL("facts number " << number);
        if (static_cast<unsigned>(verdict) != reason) FAIL("facts number " << number);
        stayed += stay;
    }
    CHECK(stayed == 3 * 3 * 5); // framings; FIN and pipelined without FIN-alone; 1.1 in four ways, 1.0 in one
}

TEST_CASE("facts that nobody stated close both connections") {
    CHECK(server_verdict({}) == http1_server_verdict::request_unwritten);
    CHECK(client_verdict({}) == http1_client_verdict::request_incomplete);
    CHECK(server_verdict(parkable()) == http1_server_verdict::park);
    CHECK(client_verdict(stayable()) == http1_client_verdict::stay);
}

TEST_CASE("every verdict has a name") {
    CHECK(std::string_view(to_string(http1_server_verdict::park)) == "park");
    CHECK(std::string_view(to_string(http1_server_verdict::draining)) == "draining");
    CHECK(std::string_view(to_string(http1_client_verdict::stay)) == "stay");
    CHECK(std::string_view(to_string(http1_client_verdict::uses_spent)) == "uses_spent");
}

TEST_CASE("version and Connection tell together whether the sender lets the connection stay") {
    const struct {
        const char *version, *connection;
        bool stays, close, upgrade;
    } cases[] = {
        {"1.1", "X: y", true, false, false},
        {"1.1", "Connection: close", false, true, false},
        {"1.1", "Connection: CLOSE", false, true, false},
        {"1.1", "Connection: foo,\t Close ,,bar", false, true, false},
        {"1.1", "Connection: keep-alive, close", false, true, false},
        {"1.1", "Connection: keep-alive\r\nConnection: close", false, true, false},
        {"1.1", "Connection: closed", true, false, false},
        {"1.1", "Connection:", true, false, false},
        {"1.0", "X: y", false, false, false},
        {"1.0", "Connection: Keep-Alive", true, false, false},
        {"1.0", "Connection: keep-alive, close", false, true, false},
        {"1.1", "Connection: Upgrade\r\nUpgrade: websocket", true, false, true},
        {"1.1", "Upgrade: websocket", true, false, false},
        {"1.1", "Connection: Upgrade", true, false, false},
        {"1.0", "Connection: Upgrade\r\nUpgrade: websocket", false, false, false},
    };
    for (const auto& c : cases) {
        CAPTURE(c.connection);
        const std::string bytes =
            std::string("HTTP/") + c.version + " 200 OK\r\n" + c.connection + "\r\n\r\n";
        const http1_head head = parsed(http1_kind::response, bytes);
        CHECK(head.keep_alive() == c.stays);
        CHECK(head.close_requested() == c.close);
        CHECK(head.has_upgrade() == c.upgrade);
    }
}

TEST_CASE("hop-by-hop fields and those that Connection names are marked, framing and Host never by name") {
    const std::string bytes =
        "GET / HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nConnection: x-A, host, content-length, via, close\r\n"
        "Keep-Alive: timeout=5\r\nProxy-Connection: x\r\nTE: trailers\r\nTrailer: X\r\nUpgrade: y\r\n"
        "Content-Length: 1\r\nVia: 1.1 z\r\nX-B: 2\r\nx-a: 3\r\nX-AB: 4\r\nX-^: 5\r\nX-~: 6\r\n"
        "Connection: x-^\r\n\r\n";
    const http1_head head = parsed(http1_kind::request, bytes);

    std::string kept;
    for (std::size_t i = 0; i < head.field_count(); ++i) {
        if (!head.field(i).hop) kept += std::string(head.field(i).name) + " ";
    }
    CHECK(kept == "Host Content-Length X-B X-AB X-~ ");
    CHECK(parsed(http1_kind::request, "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
              .field(1)
              .hop);
}

TEST_CASE("a response's body is framed by the request's method, then the status, then the fields") {
    using enum http1_body_kind;
    const struct {
        const char *status, *field;
        bool head;
        http1_body_kind kind;
    } cases[] = {
        {"200", "Content-Length: 5", false, length},
        {"200", "Content-Length: 5", true, none},
        {"200", "Transfer-Encoding: chunked", false, chunked},
        {"200", "Transfer-Encoding: chunked", true, none},
        {"200", "X: y", false, until_close},
        {"200", "X: y", true, none},
        {"204", "Content-Length: 5", false, none},
        {"304", "Content-Length: 5", false, none},
        {"304", "Transfer-Encoding: chunked", false, none},
        {"100", "X: y", false, none},
        {"101", "Content-Length: 5", false, none},
        {"205", "X: y", false, until_close},
        {"404", "Content-Length: 0", false, length},
    };
    for (const auto& c : cases) {
        CAPTURE(c.status);
        CAPTURE(c.field);
        const std::string bytes = std::string("HTTP/1.1 ") + c.status + " x\r\n" + c.field + "\r\n\r\n";
        CHECK(parsed(http1_kind::response, bytes).response_body_kind(c.head) == c.kind);
    }
    CHECK(parsed(http1_kind::request, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").body_kind() == none);
    CHECK(parsed(http1_kind::request, "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n").body_kind() ==
          length);
}

TEST_CASE("Keep-Alive gives the server's timeout, and nothing when it cannot be read") {
    const struct {
        const char* value;
        unsigned seconds;
        bool refused = false;
    } cases[] = {{"timeout=5", 5},
                 {"max=100, Timeout=15", 15},
                 {"timeout=99999999999999999999", 1'000'000'000},
                 {"timeout=", 0},
                 {"timeout=-1", 0},
                 {"timeout=5s", 0},
                 {"xtimeout=5", 0},
                 {"timeouts5", 0},
                 {"", 0},
                 {"timeout=0", 0, true},
                 {"max=5, timeout=00", 0, true}};
    for (const auto& c : cases) {
        CAPTURE(c.value);
        const std::string bytes = std::string("HTTP/1.1 200 OK\r\nKeep-Alive: ") + c.value + "\r\n\r\n";
        CHECK(parsed(http1_kind::response, bytes).keep_alive_timeout_s() == c.seconds);
        CHECK(parsed(http1_kind::response, bytes).keep_alive_refused() == c.refused);
    }
}

TEST_CASE("a connection that authenticates one user is for nobody else") {
    const struct {
        http1_kind kind;
        const char* field;
        bool binds;
    } cases[] = {{http1_kind::request, "Authorization: NTLM TlRMTVNTUAAB", true},
                 {http1_kind::request, "authorization: negotiate YII", true},
                 {http1_kind::request, "Authorization: Basic YTpi", false},
                 {http1_kind::request, "Authorization: Bearer NTLM", false},
                 {http1_kind::request, "X-Authorization: NTLM", false},
                 {http1_kind::response, "WWW-Authenticate: NTLM", true},
                 {http1_kind::response, "WWW-Authenticate: Basic realm=a\r\nWWW-Authenticate: Negotiate", true},
                 {http1_kind::response, "WWW-Authenticate: Basic realm=NTLM", false}};
    for (const auto& c : cases) {
        CAPTURE(c.field);
        const std::string start = c.kind == http1_kind::request ? "GET / HTTP/1.1\r\nHost: a\r\n" : "HTTP/1.1 401 x\r\n";
        const std::string bytes = start + c.field + "\r\n\r\n";
        CHECK(parsed(c.kind, bytes).binds_user() == c.binds);
    }

    http1_server_facts facts{.request_written = true,
                             .response_complete = true,
                             .framing = http1_body_kind::length,
                             .version = http1_version::v1_1};
    CHECK(server_verdict(facts) == http1_server_verdict::park);
    facts.user_bound = true;
    CHECK(server_verdict(facts) == http1_server_verdict::user_bound);
}
