// conform_script: what is asked of both kernels, and what is made of their answers.

#include "sim/conform_script.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <sys/epoll.h>

namespace conform {

namespace {

constexpr int steps_per_script = 40;
constexpr std::size_t handles_max = 12;

} // namespace

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
    const std::uint32_t what = below(9);
    if (what == 8)
        return made("counter", family::none, role::counter, -1, sides_[0]->counter(), sides_[1]->counter());
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
    if (what == 3)
        return made("listen_again", kind, role::listener, at.address, sides_[0]->listen_again(kind, at.address),
                    sides_[1]->listen_again(kind, at.address));
    if (!made("socket", kind, role::stream, -1, sides_[0]->socket(kind), sides_[1]->socket(kind))) return false;
    return both("connect", handles_.back(), [&](machine& m, int fd) { return m.connect(fd, kind, at.address); });
}

bool script::use_counter(handle& h) {
    switch (below(8)) {
    case 0: return close(h, false);
    case 1:
        if (handles_.size() >= handles_max) return true;
        return made("dup", h.kind, h.what, -1, sides_[0]->dup(h.fd[0]), sides_[1]->dup(h.fd[1]));
    case 2:
    case 3:
    case 4: return both("reset", h, [](machine& m, int fd) { return m.reset(fd); });
    default: return both("ring", h, [](machine& m, int fd) { return m.ring(fd); });
    }
}

bool script::use_stream(handle& h) {
    static constexpr char bytes[256] = {};
    char room[256];
    const std::size_t n = below(100) + 1;
    switch (below(20)) {
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
    case 17: return send_with(h);
    case 18: return recv_with(h);
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
    handle both = h;
    both.name += " to " + to.name;
    return on_each("pass", both, [&](std::size_t side) {
        return filled_ ? sides_[side]->pass(h.fd[side], to.fd[side], 100, 1)
                       : sides_[side]->pass(h.fd[side], to.fd[side], 4096, 1000);
    });
}

// A full socket is each kernel's own affair. So are unix sockets that hold each other in flight when nobody else has them
// any more: Linux collects those, the simulated kernel counts references.
bool script::send_with(handle& h) {
    static constexpr char bytes[100] = {};
    std::vector<handle*> others;
    for (handle& o : handles_)
        if (o.kind != family::local) others.push_back(&o);
    if (h.kind != family::local || others.empty() || filled_) return true;
    const handle& passed = *others[below(static_cast<std::uint32_t>(others.size()))];
    const std::size_t n = below(100) + 1;
    log_ += "  with " + passed.name + ":\n";
    return on_each("send_with", h, [&](std::size_t side) {
        return sides_[side]->send_with(h.fd[side], bytes, n, passed.fd[side]);
    });
}

// What has come stays open, if there is room for it in the script.
bool script::recv_with(handle& h) {
    if (h.kind != family::local) return true;
    char room[200];
    const handle from = h;
    std::vector<int> got[2];
    const auto count = [&](std::size_t side) { return static_cast<long>(got[side].size()); };
    const bool same = on_each("recv_with", from, [&](std::size_t side) {
        return sides_[side]->recv_with(from.fd[side], room, sizeof room, got[side]);
    });
    if (!same || !agree("descriptors", from, count(0), count(1))) return false;
    for (std::size_t i = 0; i < got[0].size(); i++) {
        const kind_of_fd is = sides_[0]->what_is(got[0][i]);
        if (!made("got", is.kind, is.what, is.address, got[0][i], got[1][i])) return false;
        if (handles_.size() > handles_max && !close(handles_.back(), false)) return false;
    }
    return true;
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
    handle* h = pick(below(8) == 0 ? role::counter : role::stream);
    if (!h) return true;
    return h->what == role::counter ? use_counter(*h) : use_stream(*h);
}

bool script::play(difference& found) {
    found_ = &found;
    bool same = true;
    for (int i = 0; i < steps_per_script && same; i++)
        same = step() && poll_all();
    return same;
}

} // namespace conform
