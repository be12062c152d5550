#pragma once
// crew: a proxy run by several loops, one per thread: what weir-gateway and weir-relay have in common.
//
//     open (per loop: a Worker, its listener) ──> run ──(SIGTERM)──> each drains, each loop stops ──> back in main()
//
// Every worker listens at the same port with SO_REUSEPORT, and the kernel spreads the clients over them; what cannot be
// bound twice (a unix socket, an inherited descriptor) is one socket that all accept from. Worker 0 has the main
// thread, the signals and what only one can have. The limit of clients is common to all workers: client_places.hpp.
//
// A Worker is made, used and destroyed in its loop's thread:
//
//     struct worker {
//         using settings = ...;                                       derived from crew_options
//         static constexpr const char* in_use = "...";                what a drain may have to cut off
//         worker(event_loop& loop, const settings& set, const share& mine);
//         void open(crew<worker>& home, std::uint32_t index);         or ends the program with 1
//         void drain(drain_kind, done, owner);                        the proxy's drain(), perhaps for the second time
//         int admin_fd();                                             -1: there is no other listener
//         endpoint admin_at();                                        unspecified: likewise
//         void reopen();                                              SIGHUP: files, if it has any
//         P proxy;                                                    http1_gateway, stream_proxy
//     };
//
// Lines of a worker go to home.lines(index).
//
// Owner: main(). Thread: run() main's; set_up(), told() and tear_down() are called in each worker's.

#include <algorithm>
#include <array>
#include <atomic>
#include <csignal>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <optional>

#include "core/loop_group.hpp"
#include "tools/crew_options.hpp"
#include "tools/inheritance.hpp"
#include "tools/open_report.hpp"

namespace weir::inline WEIR_KERNEL::tools {

template <class Worker>
class crew {
  public:
    using settings = typename Worker::settings;

    // `set` is borrowed. `descriptors`: how many the process may have.
    crew(const settings& set, std::uint32_t descriptors) noexcept
        : set_(set), limits_(allowed(set, descriptors)), places_(limits_.clients_max, set.threads),
          members_(new (std::nothrow) member[set.threads]) {}
    crew(const crew&) = delete;
    crew& operator=(const crew&) = delete;

    // Returns when every worker has drained. Ends the program with 1 if one cannot start.
    void run() noexcept {
        if (!members_ || !places_.has_memory()) fail("no memory for %u threads", set_.threads);
        if (set_.takeover.fd >= 0) options::wrong("--takeover", "a unix address; no descriptor is taken here");
        if (set_.listen.fd < 0) check_upstreams(set_.listen.at.at); // before a path is bound
        if (will_hand_on()) take_over();
        auto opened = group_.open({.loops_count = set_.threads,
                                   .loop = {.ledger_max = set_.ledger},
                                   .set_up = set_up,
                                   .tear_down = tear_down,
                                   .told = told,
                                   .owner = this});
        if (!opened) fail("%u loops cannot be opened: %s", set_.threads, std::strerror(opened.error()));
        if (will_hand_on()) hand_on();
        remember_files();
        group_.tell(to_begin);
        announce(members_[0].local);
        group_.run();
        names_.end(); // a resolver may take its time; a second SIGTERM does not wait for it
        if (cut_count_ > 0) say("%zu %s that still ran at --drain-timeout were cut off", cut_count_, Worker::in_use);
    }

    // What the process before had for that; none if there was none. For Worker::open() of worker 0.
    unique_fd inherited(heirloom what, const endpoint& wanted) noexcept { return heritage_.socket(what, 0, wanted); }

    // What a worker says while the loops run: stderr, and never waits. From open() on, in the worker's thread.
    log_writer& lines(std::uint32_t index) noexcept { return *members_[index].lines; }

    // The counters of all, and of those that have ended already. Any thread.
    static std::size_t write_counters(void* self, std::span<char> room) noexcept {
        crew& home = *static_cast<crew*>(self);
        const std::lock_guard lock{home.lock_};
        counter_table sum = home.ended_;
        for (std::uint32_t i = 0; i < home.set_.threads; i++)
            if (member& m = home.members_[i]; m.is_up) m.it->proxy.add_counters(sum);
        return sum.write_json(room);
    }

  private:
    enum message : std::uint32_t { to_begin, to_drain, to_hand_over, to_report, to_reopen, to_move };

    struct member {
        crew* home = nullptr;
        event_loop* loop = nullptr;
        std::optional<log_writer> lines; // outlives what writes to it
        std::optional<open_report> report;
        std::optional<Worker> it;
        endpoint local;
        int listening_fd = -1; // the proxy's
        bool is_held = false;  // it serves nobody before the process before has handed over
        bool is_up = false;    // its counters may be read; under lock_
    };

    static result<void> set_up(void* self, event_loop& loop, std::uint32_t index) noexcept {
        crew& home = *static_cast<crew*>(self);
        member& m = home.members_[index];
        m.home = &home;
        m.loop = &loop;
        m.lines.emplace().open_stderr(loop);
        m.report.emplace(loop, *m.lines);
        m.it.emplace(loop, home.set_, share{home.limits_, home.places_});
        m.it->open(home, index);
        home.listen(m, index);
        if (index == 0) {
            home.check_upstreams(m.local);
            home.names_.open(loop, home.set_.places(), m.local, home.lines(0), moved, self);
            home.take_signals(loop);
        }
        const std::lock_guard lock{home.lock_};
        m.is_up = true;
        return {};
    }

    static void tear_down(void* self, event_loop&, std::uint32_t index) noexcept {
        crew& home = *static_cast<crew*>(self);
        member& m = home.members_[index];
        const std::lock_guard lock{home.lock_};
        m.is_up = false;
        m.it->proxy.add_counters(home.ended_);
        home.cut_count_ += m.it->proxy.cut_count();
        m.it.reset();
        m.report.reset();
        m.lines.reset();
    }

    // Loop 0 has the signals: it goes on until all have drained.
    static void drained(void* at) noexcept {
        member& m = *static_cast<member*>(at);
        crew& home = *m.home;
        if (&m != &home.members_[0]) m.loop->stop();
        if (++home.drained_count_ == home.set_.threads) home.group_.loop(0).stop();
    }

    static void told(void* self, event_loop&, std::uint32_t index, std::uint32_t what) noexcept {
        crew& home = *static_cast<crew*>(self);
        member& m = home.members_[index];
        switch (static_cast<message>(what)) {
        case to_begin: home.begin(m); break;
        case to_drain: m.it->drain(drain_kind::end, drained, &m); break;
        case to_hand_over: m.it->drain(drain_kind::hand_over, drained, &m); break;
        case to_report: m.report->begin(index, home.set_.threads, write_counters, self); break;
        case to_reopen: m.it->reopen(); break;
        case to_move: home.move(m); break;
        }
    }

    void listen(member& m, std::uint32_t index) noexcept {
        auto& proxy = m.it->proxy;
        const listen_place& at = set_.listen;
        const bool reuses_port = !is_one_socket() && (set_.threads > 1 || will_hand_on());
        m.is_held = index > 0 && heritage_.is_taking();
        const listener_options own{.socket = {.reuse_port = reuses_port, .held = m.is_held,
                                              .user_timeout = set_.user_timeout,
                                              .file = at.file}};
        const endpoint wanted = index == 0 ? at.at.at : members_[0].local;
        result<void> r;
        if (index > 0 && is_one_socket()) r = proxy.listen(duplicate(members_[0].listening_fd), family_of(at), own);
        else if (at.fd >= 0) r = proxy.listen(unique_fd{at.fd}, family_of(at), own);
        else if (unique_fd fd = heritage_.socket(heirloom::listener, index, wanted))
            r = proxy.listen(std::move(fd), *at.at.family, own);
        else r = proxy.listen({at.at.family, wanted}, own);
        if (!r) fail("cannot listen at %s: %s", at.text, std::strerror(r.error()));
        if (is_one_socket() || will_hand_on()) proxy.port().share();
        m.local = proxy.port().local();
        m.listening_fd = proxy.port().fd();
    }

    // A proxy that forwards to itself would use up all it has for one request.
    void check_upstreams(const endpoint& local) noexcept {
        for (const upstream_place& up : set_.places())
            for (const address& each : up.addresses())
                if (leads_to(each.at, local))
                    options::wrong("UPSTREAM", "%s leads to LISTEN %s, so to this proxy itself; name another server",
                                   up.text, set_.listen.text);
    }

    // --- SIGHUP: the names of upstreams

    // Loop 0's thread: names_ has new places.
    static void moved(void* self) noexcept {
        crew& home = *static_cast<crew*>(self);
        {
            const std::lock_guard lock{home.lock_};
            std::copy(home.names_.places().begin(), home.names_.places().end(), home.moved_.begin());
        }
        home.group_.tell(to_move);
    }

    // Each loop's thread.
    void move(member& m) noexcept {
        const std::lock_guard lock{lock_};
        for (std::size_t i = 0; i < set_.upstreams_count; i++)
            m.it->proxy.set_upstream(i, moved_[i].addresses());
    }

    // The other process drains by now, or there was none.
    void begin(member& m) noexcept {
        if (!m.is_held) return;
        m.is_held = false;
        auto r = m.it->proxy.port().begin();
        if (!r) fail("cannot listen at %s: %s", set_.listen.text, std::strerror(r.error()));
    }

    // Inherited sockets whose queues nobody would look after must not be taken.
    void take_over() noexcept {
        heritage_.take(set_.takeover);
        const std::uint32_t before = heritage_.count(heirloom::listener);
        if (before > set_.threads)
            fail("--threads %u: the process before has %u, and no fewer will do", set_.threads, before);
    }

    // Everything listens or is bound, the loop of this thread does not turn yet, and the other threads' listeners are
    // held: nothing that may fail is left for after confirm(), and nobody is served or given anything before it.
    void hand_on() noexcept {
        for (std::uint32_t i = 0; i < (is_one_socket() ? 1 : set_.threads); i++)
            heritage_.offer(heirloom::listener, i, members_[i].listening_fd);
        if (const int fd = members_[0].it->admin_fd(); fd >= 0) heritage_.offer(heirloom::admin, 0, fd);
        const auto taken = [](void* self) noexcept {
            crew& home = *static_cast<crew*>(self);
            home.is_handed_on_ = true;
            home.group_.tell(to_hand_over);
        };
        heritage_.give(group_.loop(0), lines(0), taken, this);
        heritage_.confirm();
    }
    // It cannot be bound a second time.
    bool is_one_socket() const noexcept { return set_.listen.fd >= 0 || set_.listen.at.at.family() == AF_UNIX; }
    bool will_hand_on() const noexcept { return set_.takeover.at.family != nullptr; }

    void take_signals(event_loop& loop) noexcept {
        const auto stop = [](void* self) noexcept {
            crew& home = *static_cast<crew*>(self);
            home.remove_files();
            home.heritage_.stop(); // before any listener that it offers is closed
            home.group_.tell(to_drain);
        };
        on_stop_signal(loop, stop, this);
        take_signal(loop, SIGHUP, [](void* self, int) noexcept {
            crew& home = *static_cast<crew*>(self);
            home.group_.tell(to_reopen);
            home.names_.look_up_again();
        });
        take_signal(loop, SIGUSR1, [](void* self, int) noexcept { static_cast<crew*>(self)->group_.tell(to_report); });
    }
    void take_signal(event_loop& loop, int signal, event_loop::signal_handler handler) noexcept {
        if (auto r = loop.on_signal(signal, handler, this); !r)
            fail("signals cannot be received: %s", std::strerror(r.error()));
    }

    // Files of unix listeners. What was inherited by its number is another's to remove.
    void remember_files() noexcept {
        if (set_.listen.fd < 0) files_[0].remember(members_[0].local);
        files_[1].remember(members_[0].it->admin_at());
        if (will_hand_on()) files_[2].remember(set_.takeover.at.at);
    }
    // In the thread of loop 0, and so is is_handed_on_: then they are the next process's.
    void remove_files() noexcept {
        if (is_handed_on_) return;
        for (socket_file_kept& file : files_)
            file.remove();
    }

    const settings& set_;
    const allowance limits_;
    client_places places_; // outlives the loops, and so does the next
    names names_;          // worker 0's thread
    loop_group group_;
    std::unique_ptr<member[]> members_;
    inheritance heritage_;
    bool is_handed_on_ = false;
    std::array<socket_file_kept, 3> files_; // listener, admin, takeover
    std::mutex lock_;
    std::array<upstream_place, upstream_set::capacity> moved_; // under lock_: what to_move is about
    counter_table ended_; // under lock_, and so is the next
    std::size_t cut_count_ = 0;
    std::atomic<std::uint32_t> drained_count_ = 0;
};

} // namespace weir::inline WEIR_KERNEL::tools
