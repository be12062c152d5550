// weir-origin: an HTTP/1.1 server with every unfriendly habit, to test proxies against.
//
// It reports on stdout when it ends, as one line of JSON. SIGUSR1 closes every idle connection without a word.

#include <cstdio>

#include "proto/http1_body.hpp"
#include "tools/origin.hpp"

using namespace weir;

namespace {

enum class framing : std::uint8_t { length, chunked, close };
constexpr const char* framing_words[] = {"length", "chunked", "close"};

struct settings {
    tools::listen_place listen;
    tools::habits habits;
    std::uint64_t body_bytes = 1024, abort_after = 0;
    framing frame = framing::length;
    const char* raw = nullptr;
};

settings parse(int argc, char** argv) noexcept {
    settings set;
    tools::habits& has = set.habits;
    tools::options o{{.program = "weir-origin",
                      .usage = "[options] LISTEN",
                      .purpose = "Answers every HTTP/1.1 request, and has the habits that a proxy has to live with.\n"
                                 "Closes that it does not announce are measured: from its FIN to the peer's close.",
                      .examples = {"weir-origin --body 16k --close-idle 50ms 127.0.0.1:8081",
                                   "weir-origin --echo --close-after 100 unix:/tmp/origin.sock"}}};
    o.size("--body", set.body_bytes, "how much to answer", {0, 1 << 30});
    o.choice("--framing", set.frame, framing_words, "how the answer's end is told");
    o.count("--status", has.status, "of the answer", {100, 999});
    o.text("--raw", set.raw, "TEXT", "answer just this; \\r \\n \\0 are understood");
    o.flag("--echo", has.echo, "answer with the request's body");
    o.flag("--early", has.early, "answer before the request's body was read, then close");
    o.time("--delay", has.delay, "answer so much later");
    o.time("--close-idle", has.close_idle, "close what was idle for about so long, 0s: never");
    o.count("--close-after", has.close_after, "close right after so many answers, 0: never");
    o.size("--abort-after", set.abort_after, "reset after so many bytes of body, 0: never");
    o.time("--stray-bytes", has.stray_bytes, "send a 408 when idle for about so long, and close, 0s: never");
    o.listen_at("LISTEN", set.listen);
    o.parse(argc, argv);
    return set;
}

std::string unescaped(const char* text) {
    std::string out;
    for (; *text; text++) {
        if (*text != '\\' || !text[1]) out += *text;
        else if (*++text == 'r') out += '\r';
        else if (*text == 'n') out += '\n';
        else if (*text == '0') out += '\0';
        else out += *text;
    }
    return out;
}

std::string in_chunks(const std::string& body) {
    constexpr std::size_t chunk_max = 8000;
    std::string out;
    for (std::size_t at = 0; at < body.size(); at += chunk_max) {
        const std::string_view chunk = std::string_view{body}.substr(at, chunk_max);
        http1_chunk_head head;
        out.append(head.data(), write_chunk_head(head, chunk.size())).append(chunk).append(http1_chunk_end);
    }
    return out.append(http1_last_chunk);
}

tools::reply make_reply(const settings& set) {
    if (set.raw) {
        std::string bytes = unescaped(set.raw);
        const std::size_t end = bytes.find("\r\n\r\n");
        const std::size_t head_bytes = end == bytes.npos ? bytes.size() : end + 4;
        return {std::move(bytes), head_bytes, tools::ending::stay};
    }
    std::string body(set.body_bytes, 'w');
    for (std::size_t i = 63; i < body.size(); i += 64)
        body[i] = '\n';
    tools::reply r{"HTTP/1.1 " + std::to_string(set.habits.status) + " Weir\r\n", 0, tools::ending::stay};
    switch (set.frame) {
    case framing::length: r.bytes += "Content-Length: " + std::to_string(body.size()) + "\r\n"; break;
    case framing::chunked: r.bytes += "Transfer-Encoding: chunked\r\n"; break;
    case framing::close: r.after = tools::ending::graceful; break;
    }
    r.bytes += "\r\n";
    r.head_bytes = r.bytes.size();
    r.bytes += set.frame == framing::chunked ? in_chunks(body) : body;
    if (set.abort_after == 0) return r;
    r.bytes.resize(std::min(r.bytes.size(), r.head_bytes + set.abort_after));
    r.after = tools::ending::abort;
    return r;
}

void report(const tools::origin_totals& sum) noexcept {
    const auto us = [&](double fraction) { return static_cast<double>(sum.fin_to_close.quantile(fraction)) / 1000; };
    const auto print = [](const char* name, std::uint64_t value) {
        std::printf("\"%s\": %llu, ", name, static_cast<unsigned long long>(value));
    };
    std::printf("{");
    print("accepted", sum.accepted);
    print("requests", sum.requests);
    print("refused", sum.refused);
    print("body_bytes_in", sum.body_bytes_in);
    print("bytes_out", sum.bytes_out);
    print("idle_closes", sum.idle_closes);
    print("last_closes", sum.last_closes);
    print("strays", sum.strays);
    print("crossed_before", sum.crossed_before);
    print("resets_after_fin", sum.resets_after_fin);
    print("closes_seen", sum.fin_to_close.count());
    std::printf("\"fin_to_close_us\": {\"p50\": %.1f, \"p99\": %.1f, \"max\": %.1f}}\n", us(0.5), us(0.99), us(1));
}

} // namespace

int main(int argc, char** argv) {
    tools::hold_standard_descriptors();
    const settings set = parse(argc, argv);
    tools::prepare_process();

    event_loop loop;
    if (auto r = loop.open(); !r) tools::fail("no event loop: errno %d", r.error());
    tools::origin origin{loop, set.habits, make_reply(set)};
    origin.open(set.listen);
    tools::on_stop_signal(
        loop, [](void* at) noexcept { static_cast<event_loop*>(at)->stop(); }, &loop);
    const auto on_usr1 = [](void* at, int) noexcept { static_cast<tools::origin*>(at)->close_idle_ones(); };
    if (auto r = loop.on_signal(SIGUSR1, on_usr1, &origin); !r) tools::fail("no signals: errno %d", r.error());
    tools::announce(origin.door.local());

    loop.run();
    report(origin.sum);
    return 0;
}
