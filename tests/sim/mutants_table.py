"""The mutants: what is broken, where, and what a simulated run must die of.

Each original text stands exactly once in its file; if it no longer does, the run fails and the table is mended.
`killers` are the invariants of README.md that may be the first to see it; EXPECT is a broken contract of the library
itself, "signal" a crash. A mutant that dies of something else is noted, and fails a strict run: somebody should look.
"""


def mutant(name, harness, killers, *edits):
    return {"name": name, "harness": harness, "killers": killers.split(), "edits": edits}


MUTANTS = [
    # ---- readiness
    mutant("a report for an earlier owner is taken for one's own", "shared", "I3",
           ("core/fdtab.cc", "if (slot.generation != data >> 32 || !slot.handler) {", "if (!slot.handler) {")),
    mutant("no generation check", "idle", "EXPECT signal",
           ("core/connection.cc", "if (conn.cb_->recv(conn) == verdict::gone || slot.generation != generation) return;",
            "if (conn.cb_->recv(conn) == verdict::gone) return;")),
    mutant("generation not bumped on close", "idle", "EXPECT I2 I3 signal",
           ("core/fdtab.cc", "    slot.generation++;\n", "")),
    mutant("OUT not awaited when the buffer is full", "relay", "I4",
           ("core/connection.cc", "if (auto r = loop().cant_send(*slot_); !r) fail(r.error());",
            "fdtab::cant_send(*slot_);")),
    mutant("OUT awaited, and not written down", "relay", "I12",
           ("core/poller.cc", "    if (r < 0) return failure{-r};\n    slot.state |= fd_state::awaits_send;\n",
            "    if (r < 0) return failure{-r};\n")),
    mutant("one read per edge", "relay", "I4",
           ("core/xprt.cc",
            "if (n > 0 && static_cast<std::size_t>(n) < bytes && proves && !buggify(twist::recv_unsure)) conn.cant_recv();",
            "conn.cant_recv();")),
    mutant("a short read proves that there is no end", "relay", "I4",
           ("core/xprt.cc",
            "conn.family().reports_rdhup && !conn.slot().ended() &&", "conn.family().reports_rdhup &&")),
    mutant("reading after the read side is shut", "relay", "EXPECT",
           ("core/connection.cc", "    flags_ |= conn_flag::recv_ended;\n    stop_recv();\n    cant_recv();\n",
            "    flags_ |= conn_flag::recv_ended;\n")),
    mutant("no NEWS of a latched bit", "idle", "I4",
           ("core/fdtab.cc", "if (any(seen & ~slot.state, latched)) seen |= fd_state::news;", "")),
    mutant("one number is put off whenever another has run", "relay", "I14",
           ("core/fdtab.cc", "if (!buggify(twist::slot_later)) {",
            "if ((slot.fd != 9 || ran == 0) && !buggify(twist::slot_later)) {")),
    mutant("the run list runs what was queued in this turn", "idle", "I14",
           ("core/fdtab.cc", "    return run_from(idle_first) + run_from(others_first);",
            "    std::uint32_t ran = run_from(idle_first) + run_from(others_first);\n"
            "    for (int again = 0; again < 8 && has_runnable(); again++) {\n"
            "        const std::int32_t next_idle = lists_[0].first, next_others = lists_[1].first;\n"
            "        lists_[0] = lists_[1] = {};\n"
            "        ran += run_from(next_idle) + run_from(next_others);\n"
            "    }\n"
            "    return ran;")),
    mutant("what is left over after a turn is forgotten", "relay", "I4",
           ("core/fdtab.cc", "if (slot.generation == generation && slot.runnable()) queue(slot);", "")),
    mutant("a slot that has run is not queued again", "idle", "I4",
           ("core/fdtab.cc", "        slot.state &= ~fd_state::queued;\n", "")),
    mutant("a sleep is rounded down", "idle", "I11",
           ("core/poller.cc", "(timeout + milliseconds{1} - duration{1}) / milliseconds{1}", "timeout / milliseconds{1}")),
    mutant("the batch goes on after stop", "mailbox", "I19 I11",
           ("core/loop.cc", "        turn(sleep_limit);\n", "        turn(sleep_limit), turn(duration{});\n")),

    # ---- timers
    mutant("timer not cancelled on close", "idle", "EXPECT",
           ("core/connection.cc", "    timer_.cancel();\n    if (xprt_->close)", "    if (xprt_->close)")),
    mutant("timer re-armed in the wrong slot", "timers", "I8",
           ("core/timers.cc", "        place(t); // pushed later since it was placed",
            "        wheel_[1][current_ >> level_bits & (slot_count - 1)].push_back(t);")),
    mutant("a timer fires early", "timers", "I8",
           ("core/timers.cc", "    if (tick_of(t) > current_) {", "    if (tick_of(t) > current_ + 64) {"),
           ("core/timers.cc", "    if (t.at > now) {", "    if (t.at > now + 64 * ns_per_tick) {")),
    mutant("the due that a budget left are not waited for", "timers", "I8",
           ("core/timers.cc", "    if (!due_.empty()) return start_ + milliseconds{current_};\n", "")),
    mutant("a precise timer fires when its millisecond begins", "timers", "I8",
           ("core/timers.cc", "    if (t.at > now) {", "    if (tick_of(t) > now / ns_per_tick) {")),
    mutant("what is near is not waited for", "timers", "I8",
           ("core/timers.cc", "near_.empty() ? never : time_of(near_first_)", "never")),

    # ---- mailbox
    mutant("mailbox sleeps without looking again", "mailbox", "I4",
           ("core/mailbox.cc",
            "if (stack_.load(std::memory_order_seq_cst) == nullptr && !buggify(twist::stay_awake)) return true;",
            "return true;")),
    # Cleared after the drain it would be harmless: the loop looks once more before it sleeps. The order that matters is
    # that of the flag and of this last look.
    mutant("wake flag cleared before the queue is drained", "mailbox", "I4",
           ("core/mailbox.cc",
            "    state_.store(sleeping, std::memory_order_seq_cst);\n    interleave();\n"
            "    if (stack_.load(std::memory_order_seq_cst) == nullptr && !buggify(twist::stay_awake)) return true;\n",
            "    const bool is_empty = stack_.load(std::memory_order_seq_cst) == nullptr;\n    interleave();\n"
            "    state_.store(sleeping, std::memory_order_seq_cst);\n    if (is_empty) return true;\n")),
    mutant("wake rung before the item is published", "mailbox", "I4",
           ("core/mailbox.cc",
            "    letter* newest = stack_.load(std::memory_order_relaxed);\n    do {\n"
            "        if (l.next != newest) l.next = newest; // see run()\n"
            "    } while (!stack_.compare_exchange_weak(newest, &l, std::memory_order_seq_cst, "
            "std::memory_order_relaxed));\n",
            "    struct publication {\n        std::atomic<letter*>& stack;\n        letter& l;\n"
            "        ~publication() {\n"
            "            interleave();\n            l.next = stack.load();\n"
            "            while (!stack.compare_exchange_weak(l.next, &l)) {\n            }\n        }\n"
            "    } at_the_end{stack_, l};\n")),
    mutant("a spin does not end", "timers", "I11",
           ("core/loop.cc", "        if (now - began >= limit) {", "        if (now - began >= 1000 * limit) {"),
           ("core/loop.cc", "static_cast<std::uint64_t>(limit.count());", "std::uint64_t{1} << 40;")),
    mutant("letters run newest first", "mailbox", "I6",
           ("core/mailbox.cc", "        if (before != oldest) newest->next = oldest;\n        oldest = newest;\n        newest = before;\n",
            "        oldest = newest;\n        break;\n        newest = before;\n")),

    # ---- accepting and connecting
    mutant("leak when epoll_ctl ADD fails", "idle", "I1",
           ("core/connection.cc", "        pool_->free(*conn);\n        return refuse(slot.error());\n",
            "        pool_->free(*conn);\n        const failure why = refuse(slot.error());\n"
            "        static_cast<void>(fd.release());\n        return why;\n")),
    mutant("double close on an error path", "idle", "I2",
           ("core/connection.cc", "        pool_->free(*conn);\n        return refuse(slot.error());\n",
            "        pool_->free(*conn);\n        sys::close(fd.get());\n        return refuse(slot.error());\n")),
    mutant("leak when connect fails at once", "idle", "I1",
           ("core/socket.cc", "    if (r < 0 && r != -EINPROGRESS) return failure{-r};",
            "    if (r < 0 && r != -EINPROGRESS) return static_cast<void>(s.fd.release()), failure{-r};")),
    mutant("EMFILE without pausing the listener", "idle", "I11",
           ("core/listener.cc", "    paused_count_++;\n    fdtab::stop_recv(slot);\n", "    paused_count_++;\n")),
    # EAGAIN on accept taken as an error: the look that follows finds nobody; only a count is wrong, core/listener_test.cc.
    mutant("accept budget ignored", "idle", "I14",
           ("core/listener.cc", "budget > 0; budget--) {", "budget > 0;) {")),
    mutant("who waits behind an accepted client is not looked for", "idle", "I4 I9 I10 I14",
           ("core/listener.cc", "return buggify(twist::accept_unsure) || sys::is_readable(fd);", "return fd < 0;")),
    mutant("a pause of the listener never ends", "idle", "I10",
           ("core/listener.cc", "    conns_.loop().arm_in(pause_timer_, options_.pause);\n", "")),
    mutant("SO_ERROR forgotten", "idle", "I4 I10",
           ("core/connection.cc", "must_ask ? sys::socket_error(at.fd) : 0", "must_ask ? 0 : 0")),
    mutant("a connect has no deadline", "relay", "I8",
           ("core/dialer.cc", "    conn.value()->arm(conns.loop().now() + options.timeout, connect_timed_out);\n", "")),

    # ---- connections and their ends
    # EINTR taken as EOF: at the seam EINTR is repeated (core/sys_native.hpp), and a simulated kernel does not go through
    # that. Above it EINTR comes only from close, where repeating is wrong; and EAGAIN can be taken for an end.
    mutant("EINTR from close taken as not closed", "idle", "I2",
           ("core/loop.cc", "    const int r = sys::close(fd); //",
            "    int r = sys::close(fd);\n    if (r == -EINTR) r = sys::close(fd); //")),
    mutant("EAGAIN taken as EOF", "relay", "I7 I10",
           ("core/xprt.cc", "        conn.cant_recv();\n        return {io::again, 0};\n",
            "        conn.end_recv();\n        return {io::closed, 0};\n")),
    mutant("a failure that was met is told to nobody", "idle", "I4",
           ("core/connection.cc", "    fds().set(*slot_, fd_state::news);\n", "")),
    mutant("a graceful close has no deadline", "idle", "I8",
           ("core/connection.cc",
            "    arm(loop().now() + home_->options_.linger,\n"
            "        [](timer& t, time_point) noexcept { of(t).finish(close_intent::after_fin, end_cause::none); });\n",
            "")),
    mutant("retire frees at once", "idle", "I3",
           ("core/connection.cc", "    dead_.push_back(conn);\n    if (retired_.free) return; // on its way already\n",
            "    pool_->free(conn);\n    if (retired_.free) return; // on its way already\n")),
    mutant("an end is counted twice", "idle", "I18",
           ("core/connection.cc",
            "    live_count_--;\n",
            "    live_count_--;\n    ended_[0] += static_cast<std::size_t>(conn.cause_) == 3;\n")),

    # ---- idle
    mutant("no idle reaper", "idle", "I8",
           ("core/idle.cc", "    conn.arm(now + jittered(is_shorter ? how.age_max : options_.age_max), idle_aged);\n",
            "    static_cast<void>(is_shorter), static_cast<void>(how);\n")),
    mutant("idle EOF ignored", "idle", "I4",
           ("core/idle.cc", ".wake = idle_wake};", ".wake = keep_on};"),
           ("core/idle.cc", "static_cast<void>(conn.transport().drain(conn));\n        return idle_wake(conn);\n",
            "static_cast<void>(conn.transport().drain(conn));\n        return conn.stop_recv(), verdict::keep;\n")),
    mutant("an idle connection gets data and is kept", "idle", "I16",
           ("core/idle.cc", "    if (r.bytes > 0 && e.pool.options_.on_bytes == unsolicited::kill)\n"
            "        return e.pool.kill(e, end_cause::idle_unsolicited);\n", "")),
    mutant("parked without subscribing", "idle", "I4 I10",
           ("core/idle.cc", "    conn.want_recv();\n    const bool is_shorter", "    const bool is_shorter")),
    mutant("pool hands out a dirty connection", "idle", "I16",
           ("core/idle.cc", "        if (is_quiet(e->conn)) return", "        if (!e->conn.ended()) return")),
    mutant("caps of the pool ignored", "idle", "EXPECT",
           ("core/idle.cc", "    make_room(*k.in_);\n", "")),
    mutant("swap to idle with bytes buffered", "http1", "I16",
           ("proto/http1_exchange_response.cc",
            "server_facts_.surplus = has_surplus;", "server_facts_.surplus = false;")),
    mutant("swap to idle with the request half sent", "http1", "I6 I10 I15 I16",
           ("proto/http1_exchange_response.cc", "server_facts_.early_response = !server_facts_.request_written;", ""),
           ("proto/http1_reuse.cc", "    if (!facts.request_written) return request_unwritten;\n", "")),

    # ---- relay
    mutant("back-pressure forgotten", "relay", "I6 I7 EXPECT",
           ("core/relay.cc",
            "    p.ends[1 - to]->stop_recv();\n    p.ends[to]->want_send();\n", "    p.ends[to]->want_send();\n")),
    # After a short send the side that says the end is no longer read, so the order can only be lost where bytes are
    # pending from the start.
    mutant("FIN before buffered bytes", "relay", "I6 I7 I15",
           ("core/relay.cc", "            p.ends[1 - i]->stop_recv(); // what is pending goes first\n", "")),
    mutant("an end is not carried across", "relay", "I9",
           ("core/relay.cc", "    p.ends[to]->shutdown_send();\n", "")),
    mutant("an abort is carried across as an end", "relay", "I7",
           ("core/relay.cc", "return end(p, close_intent::abort, is_server ? end_cause::done",
            "return end(p, close_intent::after_fin, is_server ? end_cause::done")),
    mutant("a pair keeps its blocks", "relay", "EXPECT I5",
           ("core/relay.cc",
            "        way.pending.clear(conns_.blocks());\n        if (way.pipe)", "        if (way.pipe)")),
    mutant("a pair keeps its pipe", "relay", "EXPECT I1",
           ("core/relay.cc",
            "        way.pending.clear(conns_.blocks());\n        if (way.pipe) pipes_->give_back(*way.pipe);\n",
            "        way.pending.clear(conns_.blocks());\n")),
    mutant("a pipe with bytes in it is lent again", "relay", "I6 I15",
           ("core/pipes.cc", "    if (p.held_bytes > 0) close(p);\n    else free_.push_front(p);\n",
            "    p.held_bytes = 0;\n    free_.push_front(p);\n")),
    mutant("what a pipe still holds is forgotten", "relay", "I6 I7 I10",
           ("core/relay.cc", "        if (way.pipe->held_bytes > 0) return verdict::keep;\n", "")),

    # ---- takeover
    mutant("the old one stops listening before the new one is ready", "takeover", "T1 T2",
           ("core/takeover_giver.cc", "    phase_ = phase::waiting;\n    done_bytes_ = 0;\n",
            "    close();\n    told_.taken(owner_);\n")),
    mutant("a shared listener is closed without DEL", "takeover", "I3",
           ("core/listener.cc", "    EXPECT(slot_ != nullptr);\n    slot_->state |= fd_state::shared;\n",
            "    EXPECT(slot_ != nullptr);\n")),
    mutant("the takeover socket is not taken for shared", "takeover", "I3",
           ("core/takeover_giver.cc",
            "    door_->state |= fd_state::shared; // with every taker, and perhaps with the one before\n", "")),
    mutant("the taker does not compare descriptors with the message", "takeover", "T3 I2",
           ("core/takeover_taker.cc", " || head.count != fds_count_)", ")"),
           ("core/takeover_taker.cc", "    if (passed.is_cut) return finish(takeover_end::system, EMFILE);\n", ""),
           ("core/takeover_taker.cc", "        if (!sys::is_listening(fds_[i].fd.get())) return finish(takeover_end::mismatch);\n", "")),
    mutant("leak when descriptors are cut off", "takeover", "I1",
           ("core/takeover_taker.cc", "    if (passed.is_cut) return finish(takeover_end::system, EMFILE);\n",
            "    if (passed.is_cut) {\n"
            "        for (std::size_t i = 0; i < fds_count_; i++)\n"
            "            static_cast<void>(fds_[i].fd.release());\n"
            "        return finish(takeover_end::system, EMFILE);\n    }\n")),
    mutant("what was received is not closed when the giver ends", "takeover", "I1",
           ("core/takeover_taker.cc", "        fds_[i].fd.reset();\n    fds_count_ = 0;\n}\n\nvoid takeover_taker::finish",
            "        static_cast<void>(fds_[i].fd.release());\n    fds_count_ = 0;\n}\n\nvoid takeover_taker::finish")),
    mutant("a failed takeover ends the old one", "takeover", "T1 T2",
           ("core/takeover_giver.cc", "    loop_.fds().want_recv(*door_);\n    told_.failed(owner_, why, error);\n",
            "    close();\n    told_.failed(owner_, why, error);\n")),
    mutant("a taker has no deadline at the giver", "takeover", "I8",
           ("core/takeover_giver.cc", "    loop_.arm_in(timer_, options_.timeout);\n", "")),
    mutant("a giver that stays does not say so", "takeover", "T2",
           ("core/takeover_giver.cc", "    fdtab::stop_recv(*taker_);\n    say_stays();\n", "    fail(why, error);\n")),
    mutant("ready is believed of a taker that is gone", "takeover", "T2 T1 I10",
           ("core/takeover_giver.cc",
            "    if (n < 0 && !may_pass(static_cast<int>(-n))) return fail(takeover_failure::ended, static_cast<int>(-n));\n"
            "    close();\n", "    static_cast<void>(n);\n    close();\n")),
    mutant("strangers are served", "takeover", "T3",
           ("core/takeover_giver.cc", "return user == 0 || (user > 0 && user == sys::own_user());", "return user >= 0;")),
    mutant("the descriptors go once more with the rest of the message", "takeover", "T3",
           ("core/takeover_giver.cc", "const std::size_t fds_count = done_bytes_ == 0 ? ", "const std::size_t fds_count = true ? ")),
    # ---- stream_proxy
    mutant("the last bytes that are pending are dropped", "stream", "I6 I7 I10",
           ("core/relay.cc", "        way.pending.consume(sent.bytes, home.conns_.blocks());\n"
            "        if (!way.pending.empty()) return verdict::keep;\n",
            "        way.pending.consume(sent.bytes, home.conns_.blocks());\n"
            "        if (way.pending.size() > 64) return verdict::keep;\n"
            "        way.pending.clear(home.conns_.blocks());\n")),
    mutant("a server keeps its failed connection's count", "stream", "I18",
           ("proto/stream_proxy.cc", "    to.active_count--;\n    s.server = nullptr;\n", "    s.server = nullptr;\n")),
    mutant("a server keeps its ended pair's count", "stream", "I18",
           ("proto/stream_proxy.cc", "    static_cast<upstream*>(to)->active_count--;\n",
            "    static_cast<void>(to);\n")),
    # Of those that fail in a later turn; at once, it would never return.
    mutant("a server that failed is not marked as tried", "stream", "I8 I9 I10",
           ("proto/stream_proxy.cc", "    p.note_failed(s, to, error);\n",
            "    p.note_failed(s, to, error);\n    s.tried = 0;\n")),
    mutant("the next server is not tried", "stream", "I9 I10",
           ("proto/stream_proxy.cc", "        if (!to) return refuse(s, counters_.refused, end_cause::connect_failed,",
            "        if (!to || s.tried) return refuse(s, counters_.refused, end_cause::connect_failed,")),
    mutant("what came with the PROXY line is dropped", "stream", "I6 I7 I10",
           ("proto/stream_proxy.cc", "    const std::string_view early = s.early.bytes();\n",
            "    const std::string_view early;\n")),
    mutant("an accepted PROXY line is passed on", "stream", "I6",
           ("proto/stream_proxy.cc", "        s.early.consume(s.line.size(), p.conns_.blocks());\n", "")),
    mutant("the PROXY line is sent twice", "stream", "I6",
           ("proto/stream_proxy.cc", "    std::size_t bytes = write_line(s, room);\n",
            "    std::size_t bytes = write_line(s, room);\n    bytes += write_line(s, room.subspan(bytes));\n")),
    mutant("an accepted PROXY line is not believed", "stream", "I6",
           ("proto/stream_proxy.cc", "options_.accept_proxy && s.line.source().specified();", "false;")),
    mutant("a wrong PROXY line is taken for payload", "stream", "I6",
           ("proto/stream_proxy.cc", "        case proxy_line::progress::bad:\n",
            "        case proxy_line::progress::bad:\n            s.greeted = true;\n            client.stop_recv();\n"
            "            client.disarm();\n            return p.dial_next(s);\n")),
    mutant("an abort while dialing is not noticed", "stream", "I4",
           ("proto/stream_proxy.cc", "    if (client.is_broken()) return s.home.refuse(",
            "    if (client.is_broken() && !s.greeted) return s.home.refuse(")),
    mutant("a greeting has no deadline", "stream", "I8",
           ("proto/stream_proxy.cc",
            "    s.client->arm(conns_.loop().now() + options_.proxy_timeout, greeting_late);\n", "")),
    mutant("a greeting's deadline stays armed", "stream", "I9 signal",
           ("proto/stream_proxy.cc", "        client.stop_recv();\n        client.disarm();\n",
            "        client.stop_recv();\n")),
    mutant("accepting goes not on below the limit", "stream", "I10 I8",
           ("proto/stream_proxy.cc",
            "    if (clients_count_ == options_.relay.pairs_max - 1) door_.resume();\n", "")),
    mutant("accepting goes on at the limit", "stream", "EXPECT I18",
           ("proto/stream_proxy.cc",
            "    if (p.clients_count_ >= p.options_.relay.pairs_max) p.door_.pause();\n", "")),
    mutant("a pipe is not given back", "stream", "I5 EXPECT",
           ("core/relay.cc", "        home.pipes_->give_back(*std::exchange(way.pipe, nullptr));\n",
            "        way.pipe = nullptr;\n")),
    mutant("who is refused hears an end", "stream", "I7",
           ("proto/stream_proxy.cc", "    s.client->close(close_intent::abort, cause);\n",
            "    s.client->close(close_intent::after_fin, cause);\n")),
    mutant("a server whose client went hears an end", "stream", "I7",
           ("proto/stream_proxy.cc", "    if (s.server) s.server->close(close_intent::silent, end_cause::done);\n",
            "    if (s.server) s.server->close(close_intent::after_fin, end_cause::done);\n")),
    mutant("who is shed hears an end", "stream", "I7",
           ("core/connection.cc", "        sys::set_abortive(fd.get()); // its peer shall", "        // its peer shall")),
    mutant("a dial that is given up ends with a FIN", "stream", "I7",
           ("core/connection.cc", "    const bool peer_ended = is(conn_flag::recv_ended) || slot_->ended();\n",
            "    const bool peer_ended = ended();\n")),
    mutant("a drain forgets who waits for his server", "stream", "I8 I18",
           ("proto/stream_proxy.cc", "    while (session* s = waiting_.front())\n"
            "        refuse(*s, counters_.refused, end_cause::shutdown, nullptr);\n", "")),
    mutant("a drain has no limit", "stream", "I8",
           ("core/drain.cc", "self.conns_->live_count() == 0 || now >= self.until_", "self.conns_->live_count() == 0")),
    mutant("a drain takes in the whole backlog", "stream", "EXPECT I18",
           ("proto/stream_proxy.cc", "door_.accept_rest(options_.relay.pairs_max - clients_count_);",
            "door_.accept_rest(4096);")),

    # ---- http1
    mutant("EOF while output is pending drops it", "http1", "I6 I10 I15",
           ("proto/http1_exchange_response.cc", "    return to_client_.empty() ? finish() : verdict::keep;\n",
            "    if (!to_client_.empty()) client_->stop_send();\n    to_client_.clear(blocks());\n"
            "    return finish();\n")),
    mutant("POST repeated after ECONNRESET", "http1", "I17",
           ("proto/http1_exchange_response.cc", "    if (error == EPIPE) {", "    if (error != 0) {")),
    mutant("the proof of bytes_acked is not asked for", "http1", "I17",
           ("proto/http1_exchange_response.cc",
            "    return acked_before_ >= 0 && sys::bytes_acked(server_->fd()) == acked_before_;", "    return true;")),
    mutant("pipelined bytes are lost between two requests", "http1", "I10",
           ("proto/http1_exchange.cc", "    rest.take(from_client_);\n", "")),
]
