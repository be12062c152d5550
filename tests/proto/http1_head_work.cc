// http1_head_work: parses the worst heads of each limit, one after the other, for e2e/work.py, which counts the
// instructions of weir_measured_parse() under callgrind.
//
// Prints one line for each call: KIND BYTES NAME.

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "proto/http1_head.hpp"

using namespace weir;

namespace {

struct sample {
    const char* name;
    http1_kind kind;
    std::string bytes;
    http1_limits limits{};
    std::size_t step = SIZE_MAX; // bytes that come at a time
};

constexpr http1_limits large{.start_line_bytes_max = 65'000, .head_bytes_max = 65'535, .fields_max = 1000};
constexpr std::string_view get = "GET / HTTP/1.1\r\nHost: h\r\n";
constexpr std::string_view ok = "HTTP/1.1 200 OK\r\n";

std::string times(std::size_t count, std::string_view text) {
    std::string all;
    while (count-- > 0)
        all += text;
    return all;
}

// `start`, `before`, as many `unit` as fit below the limit, `after`, and the empty line.
std::string filled(std::string_view start, const std::string& before, std::string_view unit, std::string_view after,
                   const http1_limits& limits) {
    std::string all = std::string(start) + before;
    const std::size_t room = limits.head_bytes_max - all.size() - after.size() - 2;
    return all + times(room / unit.size(), unit) + std::string(after) + "\r\n";
}

// 32 names of `size` bytes, which differ only at their ends, as a list.
std::string options_of(std::size_t size) {
    std::string list;
    for (char c = 'a'; c < 'a' + 26; c++)
        list += std::string(size - 1, 'n') + c + ",";
    for (char c = '0'; c < '6'; c++)
        list += std::string(size - 1, 'n') + c + ",";
    return list;
}

std::vector<sample> samples() {
    std::vector<sample> all;
    for (const http1_limits& limits : {http1_limits{}, large}) {
        const auto add = [&](const char* name, std::string_view start, const std::string& before, std::string_view unit,
                             std::string_view after = "", std::size_t step = SIZE_MAX) {
            const http1_kind kind = start == ok ? http1_kind::response : http1_kind::request;
            all.push_back({name, kind, filled(start, before, unit, after, limits), limits, step});
        };
        const std::size_t most = limits.fields_max;
        const std::string crowd = times(most - 4, "a:\r\n");
        add("one long value", get, "X: ", "x", "\r\n");
        add("a value of white space", get, "X: ", " \t", "\r\n");
        add("a value of white space, inside", get, "X: x", " ", "x\r\n");
        add("commas, among many fields", get, crowd + "Connection: x,", ",", "\r\n");
        add("commas and spaces", get, crowd + "Connection: x,", ", ", "\r\n");
        add("commas in Keep-Alive", get, crowd + "Keep-Alive: ", ",", "\r\n");
        add("timeouts in Keep-Alive", get, "Keep-Alive: ", "timeout=1,", "\r\n");
        add("quotes in Keep-Alive", get, "Keep-Alive: ", "\"a,b\",", "\r\n");
        add("zeros in Content-Length", get, "Content-Length: ", "0", "1\r\n");
        add("space before a colon", ok, "X", " ", ": x\r\n");
        const auto add_line = [&](const char* name, const http1_kind kind, std::string_view before, char byte,
                              std::string_view after) {
            const std::size_t count = limits.start_line_bytes_max + 2 - before.size() - after.size();
            std::string head = std::string(before) + std::string(count, byte) + std::string(after) + "Host: h\r\n\r\n";
            all.push_back({name, kind, std::move(head), limits});
        };
        add_line("a reason", http1_kind::response, "HTTP/1.1 200 ", 'r', "\r\n");
        add_line("a target", http1_kind::request, "GET /", 't', " HTTP/1.1\r\n");
        add_line("an authority", http1_kind::request, "GET http://", 'h', "/ HTTP/1.1\r\n");
        add("a value, byte by byte", get, "X: ", "x", "\r\n", 1);
        add("commas, byte by byte", get, crowd + "Connection: x,", ",", "\r\n", 1);

        const auto of_fields = [&](const char* name, std::string_view start, std::size_t fields_before,
                                   const std::string& before, std::string_view line) {
            const http1_kind kind = start == ok ? http1_kind::response : http1_kind::request;
            const std::size_t fits = (limits.head_bytes_max - start.size() - before.size() - 2) / line.size();
            const std::size_t count = std::min(fits, most - fields_before);
            all.push_back({name, kind, std::string(start) + before + times(count, line) + "\r\n", limits});
        };
        of_fields("shortest fields", get, 1, "", "a:\r\n");
        of_fields("shortest fields, 32 options", get, 2, "Connection: " + options_of(1) + "\r\n", "z:\r\n");
        of_fields("short fields, 32 options", get, 2, "Connection: " + options_of(4) + "\r\n", "nnnz:\r\n");
        of_fields("longest names, 32 options", get, 2, "Connection: " + options_of(256) + "\r\n",
                  std::string(255, 'n') + "z:\r\n");
        of_fields("longest options", get, 2, "Connection: " + options_of(limits.head_bytes_max / 36) + "\r\n", "z:\r\n");
        of_fields("options, one a line", get, 33, times(32, "Connection: nnnn\r\n"), "nnnz:\r\n");
        of_fields("known names: TE", get, 1, "", "TE:\r\n");
        of_fields("known names: Keep-Alive", get, 1, "", "Keep-Alive: timeout=1\r\n");
        of_fields("known names: Authorization", get, 1, "", "Authorization: x\r\n");
        of_fields("known names: Host, of a response", ok, 0, "", "Host: h\r\n");
    }
    all.push_back({"empty lines", http1_kind::request, filled("\r\n\r\n\r\n\r\n", std::string(get) + "X: ", "x", "\r\n", {})});
    all.push_back({"bare LF", http1_kind::response, "HTTP/1.1 200 OK\n" + times(996, "a:\n") + "\n",
                   {.head_bytes_max = 65'535, .fields_max = 1000, .allow_bare_lf = true}});
    return all;
}

} // namespace

// All that is counted. Not inlined, so that it has a name.
extern "C" [[gnu::noinline]] int weir_measured_parse(http1_head& head, const sample& from, std::span<char> table);
int weir_measured_parse(http1_head& head, const sample& from, std::span<char> table) {
    head.start(from.kind, from.limits);
    auto end = http1_head::progress::more;
    for (std::size_t size = 0; size < from.bytes.size() && end == http1_head::progress::more;) {
        size += std::min(from.step, from.bytes.size() - size);
        end = head.parse({from.bytes.data(), size});
        if (end != http1_head::progress::needs_table) continue;
        head.lend_table(table);
        end = head.parse({from.bytes.data(), size});
    }
    return end == http1_head::progress::done ? static_cast<int>(head.binds_user()) : -1;
}

int main() {
    alignas(std::uint16_t) static char table[http1_head::table_bytes];
    static http1_head head;
    for (const sample& s : samples()) {
        if (s.bytes.size() > s.limits.head_bytes_max || weir_measured_parse(head, s, table) < 0) {
            std::fprintf(stderr, "refused: %s: %s\n", s.name, to_string(head.error()));
            return 1;
        }
        std::printf("%zu %zu %s\n", s.bytes.size(), head.field_count(), s.name);
    }
}
