// conform: random scripts of system calls give the same answers on the simulated kernel and on the real one.
//
// A script opens, connects, sends, ends and watches sockets. After every step the two answers are compared, then what
// poll() says of every open socket. A difference is a failure, unless its kind stands in the allow-list with a reason.
// The real kernel may take a moment: a script that differs is played again with pauses, and with longer ones, before it
// counts.

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <sys/epoll.h>

#include "sim/conform_text.hpp"
#include "sim/machine.hpp"

namespace conform {

namespace {

constexpr int steps_per_script = 40;
constexpr std::size_t handles_max = 12;
constexpr int delayed_ack_ms = 50; // TCP acknowledges within 40 ms, and the acknowledgement of a FIN is an event

enum class role : std::uint8_t { stream, listener };
struct handle {
    std::string name; // "tcp3"
    family kind;
    role what;
    int address; // a listener's; -1
    int fd[2];   // on each machine
};

// "send tcp: 5 / -32" and what it was about.
struct difference {
    std::string kind; // as the allow-list names it
    std::string text;
};

class script {
  public:
    script(std::uint64_t seed, int pause_ms) : random_(seed) {
        sides_[0] = make_real(pause_ms);
        sides_[1] = make_simulated(seed);
    }

    // True: no difference.
    bool play(difference& found);

  private:
    std::uint32_t below(std::uint32_t n) {
        random_ += 0x9e3779b97f4a7c15u;
        std::uint64_t z = random_;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        return static_cast<std::uint32_t>((z ^ z >> 31) >> 33) % n;
    }

    // Plays one call on both; `same` tells whether the answers agree.
    template <class Call>
    bool both(const char* what, const handle& on, Call call) {
        long answer[2];
        for (std::size_t side = 0; side < 2; side++) {
            answer[side] = call(*sides_[side], on.fd[side]);
            sides_[side]->settle();
        }
        return agree(what, on, answer[0], answer[1]);
    }
    bool agree(const char* what, const handle& on, long real, long simulated);
    bool made(const char* what, family f, role r, int address, int real, int simulated);
    handle* pick(role r);
    bool step();
    bool open_something();
    bool use_stream(handle& h);
    bool watch_something();
    bool wait();
    bool fill(handle& h);
    bool pass(handle& h);
    bool drain(handle& h);
    bool close(handle& h, bool abort);
    bool poll_all();

    std::uint64_t random_;
    std::unique_ptr<machine> sides_[2];
    std::vector<handle> handles_;
    std::map<std::uint64_t, std::string> watched_; // by data
    bool filled_ = false;                          // some socket has met the end of its room
    int names_ = 0;
    std::uint64_t serial_ = 0;
    std::string log_;
    difference* found_ = nullptr;
};

bool script::agree(const char* what, const handle& on, long real, long simulated) {
    if (std::strcmp(what, "fill") == 0 && real == -EAGAIN) filled_ = true;
    log_ += std::string("  ") + what + " " + on.name + " = " + errno_text(real) + "\n";
    if (real == simulated) return true;
    const auto outcome = [](long r) { return r > 0 ? "some" : errno_text(r); };
    found_->kind = std::string(what) + " " + text_of(on.kind) + " " + outcome(real) + " " + outcome(simulated);
    if (filled_) found_->kind += " once full";
    found_->text = log_ + "  but simulated: " + errno_text(simulated) + "\n";
    return false;
}

bool script::made(const char* what, family f, role r, int address, int real, int simulated) {
    handle h{.name = text_of(f) + std::to_string(serial_++),
             .kind = f,
             .what = r,
             .address = address,
             .fd = {real, simulated}};
    const bool same = agree(what, h, std::min(real, 0), std::min(simulated, 0));
    if (same && real >= 0) handles_.push_back(h);
    return same;
}

handle* script::pick(role r) {
    std::vector<handle*> fitting;
    for (handle& h : handles_)
        if (h.what == r) fitting.push_back(&h);
    return fitting.empty() ? nullptr : fitting[below(static_cast<std::uint32_t>(fitting.size()))];
}

bool script::open_something() {
    const family f = below(2) == 0 ? family::tcp : family::local;
    const std::uint32_t what = below(8);
    if (what == 0) return made("socket", f, role::stream, -1, sides_[0]->socket(f), sides_[1]->socket(f));
    if (what == 1) {
        int ends[2][2];
        for (std::size_t side = 0; side < 2; side++)
            sides_[side]->pair(ends[side]);
        return made("pair", family::local, role::stream, -1, ends[0][0], ends[1][0]) &&
               made("pair", family::local, role::stream, -1, ends[0][1], ends[1][1]);
    }
    handle* door = pick(role::listener);
    if (!door || what == 2) {
        const int backlog = static_cast<int>(below(4)) + 4;
        const int name = names_++;
        return made("listen", f, role::listener, name, sides_[0]->listen(f, name, backlog),
                    sides_[1]->listen(f, name, backlog));
    }
    const family kind = door->kind;
    const handle at = *door; // the vector may move
    if (!made("socket", kind, role::stream, -1, sides_[0]->socket(kind), sides_[1]->socket(kind))) return false;
    return both("connect", handles_.back(), [&](machine& m, int fd) { return m.connect(fd, kind, at.address); });
}

bool script::use_stream(handle& h) {
    static constexpr char bytes[256] = {};
    char room[256];
    const std::size_t n = below(100) + 1;
    switch (below(18)) {
    case 0:
    case 1:
    case 2:
    case 3: return both("send", h, [&](machine& m, int fd) { return m.send(fd, bytes, n); });
    case 4:
    case 5:
    case 6: return both("recv", h, [&](machine& m, int fd) { return m.recv(fd, room, 2 * n); });
    case 7: return both("peek", h, [&](machine& m, int fd) { return m.peek(fd); });
    case 8:
        if (h.kind == family::local) return drain(h);
        return both("discard", h, [&](machine& m, int fd) { return m.discard(fd, 2 * n); });
    case 9: return both("shutdown", h, [&](machine& m, int fd) { return m.shutdown_send(fd); });
    case 10: return both("socket_error", h, [&](machine& m, int fd) { return m.socket_error(fd); });
    case 11: return both("peer_name", h, [&](machine& m, int fd) { return m.peer_name(fd); });
    case 12: return below(3) == 0 ? fill(h) : drain(h);
    case 13: return close(h, below(3) == 0);
    case 14:
        if (handles_.size() >= handles_max) return true;
        return made("dup", h.kind, role::stream, -1, sides_[0]->dup(h.fd[0]), sides_[1]->dup(h.fd[1]));
    case 15:
    case 16: return pass(h);
    default: return drain(h);
    }
}

// Until it is full. How much that is, is each kernel's own affair.
bool script::fill(handle& h) {
    static constexpr char bytes[4096] = {};
    return both("fill", h, [&](machine& m, int fd) {
        long r;
        do {
            r = m.send(fd, bytes, sizeof bytes);
        } while (r > 0);
        return r;
    });
}

// Splices from one to another, the same one perhaps. Only a little once some room was filled: how much fits is each
// kernel's own affair.
bool script::pass(handle& h) {
    handle& to = *pick(role::stream);
    log_ += "  to " + to.name + ":\n";
    long answer[2];
    for (std::size_t side = 0; side < 2; side++) {
        answer[side] = filled_ ? sides_[side]->pass(h.fd[side], to.fd[side], 100, 1)
                               : sides_[side]->pass(h.fd[side], to.fd[side], 4096, 1000);
        sides_[side]->settle();
    }
    handle both = h;
    both.name += " to " + to.name;
    return agree("pass", both, answer[0], answer[1]);
}

// Until nothing is left; what the sender still held comes meanwhile.
bool script::drain(handle& h) {
    return both("drain", h, [&](machine& m, int fd) {
        char room[8192];
        long r;
        do {
            r = m.recv(fd, room, sizeof room);
            if (r > 0) m.settle();
        } while (r > 0);
        return r;
    });
}

bool script::close(handle& h, bool abort) {
    const handle gone = h;
    handles_.erase(handles_.begin() + (&h - handles_.data()));
    return both(abort ? "abort" : "close", gone, [&](machine& m, int fd) { return abort ? m.abort(fd) : m.close(fd); });
}

bool script::watch_something() {
    if (handles_.empty()) return true;
    handle& h = handles_[below(static_cast<std::uint32_t>(handles_.size()))];
    std::uint32_t events = EPOLLIN | EPOLLRDHUP;
    if (below(2) == 0) events |= EPOLLOUT;
    if (below(4) != 0) events |= EPOLLET;
    const std::uint64_t data = serial_++;
    watched_[data] = h.name;
    switch (below(4)) {
    case 0: return both("epoll_change", h, [&](machine& m, int fd) { return m.change(fd, events, data); });
    case 1:
        if (below(4) != 0) return true;
        return both("epoll_remove", h, [&](machine& m, int fd) { return m.remove(fd); });
    default: return both("epoll_add", h, [&](machine& m, int fd) { return m.add(fd, events, data); });
    }
}

bool script::wait() {
    report reports[2][64];
    int n[2];
    for (std::size_t side = 0; side < 2; side++) {
        n[side] = sides_[side]->wait(reports[side], 64);
        std::sort(reports[side], reports[side] + n[side],
                  [](const report& a, const report& b) { return a.data < b.data; });
    }
    const int most = std::max(n[0], n[1]);
    log_ += "  wait = " + std::to_string(n[0]) + "\n";
    for (int i = 0; i < most; i++) {
        const bool has[2] = {i < n[0], i < n[1]};
        if (has[0] && has[1] && reports[0][i] == reports[1][i]) {
            log_ += "    " + watched_[reports[0][i].data] + " " + events_text(reports[0][i].events) + "\n";
            continue;
        }
        const bool real_first = has[0] && (!has[1] || reports[0][i].data <= reports[1][i].data);
        const std::uint64_t data = reports[real_first ? 0 : 1][i].data;
        const bool both_have = has[0] && has[1] && reports[0][i].data == reports[1][i].data;
        const std::string real = real_first || both_have ? events_text(reports[0][i].events) : "nothing";
        const std::string simulated = !real_first || both_have ? events_text(reports[1][i].events) : "nothing";
        const std::string& who = watched_[data];
        found_->kind = "wait " + who.substr(0, who.find_first_of("0123456789")) + " " + real + " " + simulated;
        found_->text = log_ + "  " + who + " reports " + real + ", but simulated: " + simulated + "\n";
        if (filled_) found_->kind += " once full";
        return false;
    }
    return true;
}

bool script::poll_all() {
    for (const handle& h : handles_) {
        const std::uint32_t real = sides_[0]->poll(h.fd[0]), simulated = sides_[1]->poll(h.fd[1]);
        if (real == simulated) continue;
        found_->kind = std::string("poll ") + text_of(h.kind) + " " + events_text(real) + " " + events_text(simulated);
        found_->text =
            log_ + "  " + h.name + " is " + events_text(real) + ", but simulated: " + events_text(simulated) + "\n";
        if (filled_) found_->kind += " once full";
        return false;
    }
    return true;
}

bool script::step() {
    const std::uint32_t what = below(20);
    if (handles_.size() < 3 || (what < 4 && handles_.size() + 2 < handles_max)) return open_something();
    if (what < 7) return watch_something();
    if (what < 9) return wait();
    if (what < 11) {
        handle* door = pick(role::listener);
        if (!door) return true;
        if (below(12) == 0) return close(*door, false);
        const handle at = *door;
        if (handles_.size() >= handles_max) return true;
        return made("accept", at.kind, role::stream, -1, sides_[0]->accept(at.fd[0]), sides_[1]->accept(at.fd[1]));
    }
    handle* h = pick(role::stream);
    return h ? use_stream(*h) : true;
}

bool script::play(difference& found) {
    found_ = &found;
    bool same = true;
    for (int i = 0; i < steps_per_script && same; i++)
        same = step() && poll_all();
    return same;
}

// One kind per line, then ": " and the reason.
std::map<std::string, std::string> read_allowed(const char* path) {
    std::map<std::string, std::string> allowed;
    std::ifstream in(path);
    for (std::string line; std::getline(in, line);) {
        const std::size_t colon = line.find(": ");
        if (line.empty() || line[0] == '#' || colon == line.npos) continue;
        allowed[line.substr(0, colon)] = line.substr(colon + 2);
    }
    return allowed;
}

constexpr const char* usage =
    "usage: weir-conform [options]\n"
    "\n"
    "Plays random scripts of system calls on the simulated kernel and on the real one, and compares the answers.\n"
    "\n"
    "  --scripts N      how many (default: 1000)\n"
    "  --first N        the first one's seed (default: 1)\n"
    "  --allow FILE     kinds of differences that have a reason\n"
    "  --count          count the kinds of differences instead of stopping at the first\n"
    "  --help           this text\n"
    "\n"
    "exit status: 0 no difference without a reason, 1 there is one, 2 usage\n"
    "\n"
    "  weir-conform --scripts 20000 --allow tests/sim/conform.allow\n"
    "  weir-conform --first 4711 --scripts 1\n";

int run(int argc, char** argv) {
    std::signal(SIGPIPE, SIG_IGN); // splice(2) cannot be told not to raise it
    std::uint64_t scripts = 1000, first = 1;
    const char* allow = nullptr;
    bool count = false;
    for (int i = 1; i < argc; i++) {
        const std::string_view option = argv[i];
        if (option == "--help") return std::fputs(usage, stdout), 0;
        if (option == "--count") count = true;
        else if (option == "--scripts" && i + 1 < argc) scripts = std::strtoull(argv[++i], nullptr, 10);
        else if (option == "--first" && i + 1 < argc) first = std::strtoull(argv[++i], nullptr, 10);
        else if (option == "--allow" && i + 1 < argc) allow = argv[++i];
        else return std::fprintf(stderr, "weir-conform: %s: no such option; try --help\n", argv[i]), 2;
    }
    const auto allowed = allow ? read_allowed(allow) : std::map<std::string, std::string>{};
    std::map<std::string, std::pair<std::uint64_t, std::uint64_t>> kinds; // how often, an example
    std::uint64_t excused = 0;
    for (std::uint64_t seed = first; seed < first + scripts; seed++) {
        difference found;
        if (script(seed, 0).play(found) || script(seed, 2).play(found)) continue;
        if (!allowed.count(found.kind) && script(seed, delayed_ack_ms).play(found)) continue;
        if (!allowed.count(found.kind) && script(seed, 250).play(found)) continue; // on a machine that was slower still
        if (allowed.count(found.kind)) {
            excused++;
            continue;
        }
        auto& kind = kinds[found.kind];
        kind.first++;
        kind.second = seed;
        if (count) continue;
        std::fprintf(stderr, "%sscript %llu: %s\n", found.text.c_str(), static_cast<unsigned long long>(seed),
                     found.kind.c_str());
        return 1;
    }
    for (const auto& [kind, seen] : kinds)
        std::printf("%6llu  %s (script %llu)\n", static_cast<unsigned long long>(seen.first), kind.c_str(),
                    static_cast<unsigned long long>(seen.second));
    std::printf("total: %llu scripts, %llu ended early by a difference that has a reason\n",
                static_cast<unsigned long long>(scripts), static_cast<unsigned long long>(excused));
    const bool is_thin =
        scripts >= 1000 && excused * 20 > scripts; // what comes after such a difference is not compared
    if (is_thin) std::fprintf(stderr, "more than 5 %% of the scripts ended early\n");
    return kinds.empty() && !is_thin ? 0 : 1;
}

} // namespace

} // namespace conform

int main(int argc, char** argv) { return conform::run(argc, argv); }
