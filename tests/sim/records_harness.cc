// records_harness: a server behind a transport that reads ahead: record_xprt. It sends back what it gets.
//
// Its guests say their hello and all that they have to say in one breath, in pieces of any size. So the transport reads
// the first records together with the hello, whenever these come between a report of epoll and the handshake that it
// leads to; nobody but the transport knows of those then.

#include <array>
#include <string>

#include "core/listener.hpp"
#include "core/tables.hpp"
#include "proto/tcp.hpp"
#include "sim/world.hpp"
#include "support/record_xprt.hpp"

namespace simtest {

namespace {

const endpoint door = endpoint::ipv4(0x0a000001, 443), far_away = endpoint::ipv4(0x0a000002, 0);
constexpr std::uint32_t guests_max = 24;

struct guest {
    std::string out;   // not sent yet
    std::string words; // what it says, without the records around it
    std::string in;    // received and not understood yet
    std::string heard;
    bool greeted = false, said_end = false;
    bool over = false; // heard all, or broken off
    bool whole = false;

    void begin(dice& chance, std::uint32_t words_max) {
        words.resize(chance.between(1, words_max));
        for (char& c : words)
            c = static_cast<char>('a' + chance.below(26));
        out = support::record(words);
        out.insert(out.begin(), 'H'); // g++ 12 at -O3 takes a string in front of it for endless
        if (chance.below(4) == 0) out.insert(1, support::ticket);
    }
    void run(remote& r) noexcept {
        if (over || r.connecting()) return;
        while (!out.empty()) {
            const std::size_t some = r.chance().between(1, 300);
            const sys::count n = r.send(std::string_view{out}.substr(0, some));
            if (n == -EAGAIN) break;
            if (n < 0) return leave(r);
            out.erase(0, static_cast<std::size_t>(n));
        }
        char room[256];
        sys::count n;
        while ((n = r.recv(room)) > 0)
            in.append(room, static_cast<std::size_t>(n));
        if (!greeted && !in.empty()) {
            greeted = true;
            in.erase(0, 1);
        }
        const bool ended = greeted && support::unrecord(in, heard);
        whole = heard == words;
        if (ended || n == 0 || (n < 0 && n != -EAGAIN)) return leave(r);
        if (!whole || said_end) return;
        said_end = true;
        out = support::record_end;
        r.wake_in(milliseconds{1});
    }
    void leave(remote& r) noexcept {
        over = true;
        r.close();
    }
};
constexpr remote_cb guest_cb{.name = "guest",
                             .run = [](remote& r) noexcept { static_cast<guest*>(r.owner)->run(r); }};

// One buffer per connection: it may be used again when its connection has ended.
struct desks {
    explicit desks(world& w) : world_(w) {}
    ~desks() {
        for (buffer& b : all_)
            b.clear(world_.conns->blocks());
    }
    static void accepted(void* self, connection& conn, const endpoint&) noexcept {
        desks& me = *static_cast<desks*>(self);
        buffer& mine = me.all_[me.next_++ % me.all_.size()];
        mine.clear(me.world_.conns->blocks());
        conn.attach(served_cb, &mine);
    }

  private:
    // Nothing is wanted until the handshake is through.
    static verdict served_wake(connection& conn) noexcept {
        if (conn.is_broken()) {
            conn.owner_as<buffer>().clear(conn.home().blocks());
            return conn.close(close_intent::silent, conn.failure());
        }
        conn.attach(echo_cb, conn.owner());
        conn.want_recv();
        return verdict::keep;
    }
    static constexpr data_cb served_cb{.name = "greeted", .recv = keep_on, .send = keep_on, .wake = served_wake};

    world& world_;
    std::array<buffer, 2 * guests_max> all_;
    std::size_t next_ = 0;
};

std::uint64_t run(std::uint64_t seed) {
    world w{seed};
    support::record_layer::hello_bytes = 1;
    support::record_layer::read_max = w.k.chance.coin() ? 4096 : w.k.chance.magnitude(1, 300);
    std::array<guest, guests_max> guests;
    listener port{*w.conns};
    {
        desks all{w};
        if (!port.open(tcp, door, {.transport = &support::record_xprt}, desks::accepted, &all))
            w.k.violate("I10", "no listener, though nothing is wrong");
        saw(mark::over_records);
        const std::uint32_t words_max = 4 * std::min(w.k.options().network.buffer_bytes_max, 500u);

        w.k.faults.resume();
        std::uint32_t count = 0;
        for (const std::uint32_t early = w.k.chance.between(1, guests_max / 2); count < early; count++) {
            guests[count].begin(w.k.chance, words_max);
            w.k.net.dial(far_away, door, guest_cb, &guests[count]);
            if (w.k.chance.coin()) w.turn(w.k.chance.between(duration{}, duration{milliseconds{20}}));
        }
        w.turn_until(w.k.time.now + seconds{1});

        w.k.heal();
        const std::uint32_t late_ones = count;
        for (; count < late_ones + 4; count++) {
            guests[count].begin(w.k.chance, words_max);
            w.k.net.dial(far_away, door, guest_cb, &guests[count]);
        }
        const auto all_over = [&] {
            for (std::uint32_t i = 0; i < count; i++)
                if (guests[i].greeted && !guests[i].over) return false;
            return true;
        };
        const auto served = [&] {
            for (std::uint32_t i = late_ones; i < count; i++)
                if (!guests[i].whole) return false;
            return true;
        };
        w.require_by(w.k.time.now + seconds{60}, "I10", "a guest who comes when all is well is not answered", served);
        w.require_by(w.k.time.now + seconds{60}, "I10", "a guest waits for an answer that never comes", all_over);
        for (const guest& g : guests)
            if (!g.words.starts_with(g.heard)) w.k.violate("I6", "a guest heard what it has not said");
        port.close();
    }
    w.close_conns();
    if (support::record_layer::live_count != 0) w.k.violate("I5", "a transport's context was not freed");
    w.tear_down();
    return w.k.log.hash();
}

} // namespace

const harness records_harness{.name = "records", .run = run};

} // namespace simtest
