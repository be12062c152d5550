// http1_head: whatever the bytes are, a head reads the same however they are cut, stays within its limits and its
// input, costs work in proportion to its bytes, and is understood again, as the same, once it has been written.
//
// Work is the number of basic blocks that the parser enters. The compiler counts them: -fsanitize-coverage=trace-pc.

#include "fuzz/fuzz.hpp"

#include <algorithm>
#include <string>
#include <vector>

#include "proto/http1_head.hpp"
#include "proto/http1_upgrade.hpp"
#include "proto/http1_write.hpp"

using namespace weir;

namespace {

using progress = http1_head::progress;

constexpr http1_limits default_limits{};
constexpr http1_limits large{.start_line_bytes_max = 60'000, .head_bytes_max = 65'535, .fields_max = 1000};
constexpr http1_limits tight{.start_line_bytes_max = 24,
                             .head_bytes_max = 80,
                             .fields_max = 3,
                             .name_bytes_max = 8,
                             .leading_crlf_max = 1,
                             .allow_bare_lf = true};

void add(std::string& to, std::string_view text) { to.append(text).push_back('\0'); }
void add(std::string& to, std::uint64_t number) { add(to, std::to_string(number)); }

#if defined(WEIR_COUNTS_BLOCKS)
constexpr bool counts_blocks = true;
#else
constexpr bool counts_blocks = false; // libFuzzer has the function that counts
#endif
std::uint64_t blocks_entered = 0;

// parse(), with a table lent when it is asked for.
progress parse(http1_head& head, std::string_view bytes) {
    alignas(std::uint16_t) static char table[http1_head::table_bytes];
    const progress result = head.parse(bytes);
    if (result != progress::needs_table) return result;
    head.lend_table(table);
    return head.parse(bytes);
}

// All that can be asked of a head after parse(), as one text.
std::string describe(const http1_head& head, progress result) {
    std::string all = std::to_string(static_cast<int>(result));
    add(all, to_string(head.error()));
    if (result != progress::done) return all;
    add(all, head.size());
    add(all, static_cast<std::uint64_t>(head.version()));
    add(all, head.content_length());
    const bool facts[] = {
        head.keep_alive(),      head.close_requested(), head.binds_user(), head.keep_alive_requested(),
        head.expect_continue(), head.has_upgrade(),     head.is_chunked()};
    for (const bool fact : facts)
        all.push_back(fact ? '1' : '0');
    add(all, head.keep_alive_timeout_s());
    add(all, static_cast<std::uint64_t>(head.body_kind()));
    if (head.kind() == http1_kind::request) {
        for (const std::string_view text : {head.method_text(), head.target(), head.authority(), head.path()})
            add(all, text);
    } else {
        add(all, static_cast<std::uint64_t>(head.status()));
        add(all, head.reason());
    }
    for (std::size_t i = 0; i < head.field_count(); i++) {
        const http1_field f = head.field(i);
        add(all, f.name);
        add(all, f.value);
        add(all, static_cast<std::uint64_t>(f.id) * 2 + f.hop);
    }
    return all;
}

std::string read_whole(std::string_view bytes, http1_kind kind, const http1_limits& limits) {
    http1_head head;
    head.start(kind, limits);
    const progress result = parse(head, bytes);
    return describe(head, result);
}

// In two pieces, the first alone in memory, then everything somewhere else.
std::string read_cut(std::string_view bytes, std::size_t cut, http1_kind kind, const http1_limits& limits) {
    http1_head head;
    head.start(kind, limits);
    const fuzz::alone first{bytes.substr(0, cut)};
    progress result = parse(head, first.view());
    if (result != progress::done) result = parse(head, bytes);
    return describe(head, result);
}

std::string read_byte_by_byte(std::string_view bytes, http1_kind kind, const http1_limits& limits) {
    http1_head head;
    head.start(kind, limits);
    progress result = parse(head, {});
    for (std::size_t size = 1; size <= bytes.size() && result == progress::more; size++)
        result = parse(head, bytes.substr(0, size));
    return describe(head, result);
}

// Of the whole at once, and of a byte at a time.
void expect_linear_work(std::string_view bytes, http1_kind kind, const http1_limits& limits) {
    constexpr std::uint64_t per_byte = 100, per_call = 100;
    static http1_head head;
    for (const std::size_t piece : {bytes.size() + 1, std::size_t{1}}) {
        head.start(kind, limits);
        blocks_entered = 0;
        std::size_t size = 0;
        progress result = progress::more;
        while (result == progress::more && size < bytes.size()) {
            size = std::min(size + piece, bytes.size());
            result = parse(head, bytes.substr(0, size));
        }
        EXPECT(blocks_entered <= size * per_byte + per_call);
        EXPECT(!counts_blocks || size == 0 || blocks_entered > 0);
    }
}

void expect_inside(std::string_view view, std::string_view whole) {
    EXPECT(view.empty() || (view.data() >= whole.data() && view.data() + view.size() <= whole.data() + whole.size()));
}

void expect_within_limits(const http1_head& head, const http1_limits& limits, std::string_view bytes) {
    EXPECT(head.size() <= bytes.size());
    EXPECT(head.size() <= limits.head_bytes_max);
    EXPECT(head.field_count() <= limits.fields_max);
    EXPECT(head.content_length() <= std::uint64_t{INT64_MAX});
    const std::string_view whole = bytes.substr(0, head.size());
    for (std::size_t i = 0; i < head.field_count(); i++) {
        const http1_field f = head.field(i);
        EXPECT(!f.name.empty() && f.name.size() <= limits.name_bytes_max);
        EXPECT(f.value.find_first_of(std::string_view{"\r\n\0", 3}) == f.value.npos);
        expect_inside(f.name, whole);
        expect_inside(f.value, whole);
    }
    if (head.kind() == http1_kind::request) {
        EXPECT(head.method_text().size() <= http1_head::method_bytes_max);
        EXPECT(head.target().size() <= limits.start_line_bytes_max);
        for (const std::string_view view : {head.method_text(), head.target(), head.authority()})
            expect_inside(view, whole);
        if (head.path() != "/" && head.path() != "*") expect_inside(head.path(), whole);
    } else {
        EXPECT(head.status() >= 100 && head.status() <= 999);
        expect_inside(head.reason(), whole);
    }
}

std::string write(const http1_head& head) {
    const http1_framing framing{.kind = head.body_kind(), .length = head.content_length()};
    const bool is_request = head.kind() == http1_kind::request;
    const http1_forwarding how{.upgrades = "websocket, w, x/1", .own_host = "own:80"};
    const bool upgrades = is_request ? upgrades_asked(head, how.upgrades) != 0 : head.has_upgrade();
    const http1_persistence persistence = upgrades ? http1_persistence::upgrade : http1_persistence::unsaid;
    std::string text(80 * 1024, '\0');
    const std::size_t size = is_request ? write_request_head(text.data(), text.size(), head, framing, persistence, how)
                                        : write_response_head(text.data(), text.size(), head, framing, persistence);
    EXPECT(size > 0);
    text.resize(size);
    return text;
}

// What was written is one head and nothing else, frames the same body, and written again it is the same text.
void expect_written_again(const http1_head& head) {
    if (head.kind() == http1_kind::request && head.method() == http1_method::connect) return; // never forwarded
    const std::string once = write(head);
    http1_head again;
    // Host and Connection may have been added, and each line may have grown by a space and a slash.
    constexpr std::size_t size_max = 64 * 1024 - 1;
    if (head.field_count() + 3 > http1_head::fields_capacity || once.size() > size_max) return;
    again.start(head.kind(),
                {.start_line_bytes_max = size_max, .head_bytes_max = size_max, .fields_max = http1_head::fields_capacity});
    alignas(std::uint16_t) static char table[http1_head::table_bytes]; // another than that of `head`
    progress result = again.parse(once);
    if (result == progress::needs_table) {
        again.lend_table(table);
        result = again.parse(once);
    }
    EXPECT(result == progress::done);
    EXPECT(again.size() == once.size());
    EXPECT(again.version() == http1_version::v1_1);
    EXPECT(again.body_kind() == head.body_kind());
    if (head.body_kind() == http1_body_kind::length) EXPECT(again.content_length() == head.content_length());
    if (head.kind() == http1_kind::request) {
        EXPECT(again.method_text() == head.method_text());
        EXPECT(again.authority() == (head.names_host() ? head.authority() : "own:80"));
    } else {
        EXPECT(again.status() == head.status());
        EXPECT(again.reason() == head.reason());
    }
    EXPECT(write(again) == once);
}

void try_as(http1_kind kind, const http1_limits& limits, std::string_view bytes) {
    expect_linear_work(bytes, kind, limits);
    const std::string whole = read_whole(bytes, kind, limits);
    EXPECT(read_byte_by_byte(bytes, kind, limits) == whole);
    fuzz::for_each_cut(bytes.size(), [&](std::size_t cut) { EXPECT(read_cut(bytes, cut, kind, limits) == whole); });

    http1_head head;
    head.start(kind, limits);
    const progress result = parse(head, bytes);
    EXPECT((head.error() != http1_error::none) == (result == progress::bad));
    if (result == progress::bad) EXPECT(head.parse(bytes) == progress::bad);
    if (result != progress::done) return;
    expect_within_limits(head, limits, bytes);
    // What follows the head does not matter.
    EXPECT(read_whole(fuzz::alone{bytes.substr(0, head.size())}.view(), kind, limits) == whole);
    expect_written_again(head);
}

} // namespace

#if defined(WEIR_COUNTS_BLOCKS)
extern "C" void __sanitizer_cov_trace_pc();
extern "C" void __sanitizer_cov_trace_pc() { blocks_entered++; }
#endif

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view bytes = fuzz::text_of(data, size);
    for (const http1_kind kind : {http1_kind::request, http1_kind::response})
        for (const http1_limits& limits : {default_limits, large, tight})
            try_as(kind, limits, bytes);
    return 0;
}
