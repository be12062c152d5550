// options: taking the command line apart, and the words about it.

#include "tools/options.hpp"

#include <grp.h>
#include <pwd.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace weir::inline WEIR_KERNEL::tools {

namespace {

constexpr int exit_usage = 2;
constexpr duration time_max = std::chrono::hours{24 * 365};

struct unit {
    std::string_view name;
    std::uint64_t factor;
};
// Largest first: a default is shown in the largest unit that leaves no rest.
constexpr unit time_units[] = {
    {"h", 3600'000'000'000}, {"m", 60'000'000'000}, {"s", 1'000'000'000}, {"ms", 1'000'000}, {"us", 1'000}};
constexpr unit size_units[] = {{"g", 1 << 30}, {"m", 1 << 20}, {"k", 1 << 10}, {"", 1}};

constexpr const char* time_wanted = "a time with its unit: 500us, 250ms, 2s, 1m, 1h";
constexpr const char* size_wanted = "a size: 4096, 64k, 16m, 1g";
constexpr const char* count_wanted = "a number";
constexpr const char* address_wanted = "127.0.0.1:8080, [::1]:8080, localhost:8080 or unix:/run/x.sock";

// Digits, then one of the units.
bool parse_with_unit(std::string_view text, std::span<const unit> units, std::uint64_t& to) noexcept {
    std::uint64_t value = 0;
    const auto [end, error] = std::from_chars(text.begin(), text.end(), value);
    if (error != std::errc{} || end == text.begin()) return false;
    const std::string_view name = text.substr(static_cast<std::size_t>(end - text.begin()));
    for (const unit& u : units)
        if (u.name == name) return !__builtin_mul_overflow(value, u.factor, &to);
    return false;
}

bool parse_time(std::string_view text, duration& to) noexcept {
    std::uint64_t ns = 0;
    if (!parse_with_unit(text, time_units, ns) || ns > static_cast<std::uint64_t>(time_max.count())) return false;
    to = duration{static_cast<std::int64_t>(ns)};
    return true;
}

bool parse_size(std::string_view text, std::uint64_t& to) noexcept { return parse_with_unit(text, size_units, to); }

bool parse_count(std::string_view text, std::uint64_t& to) noexcept {
    constexpr unit plain[] = {{"", 1}};
    return parse_with_unit(text, plain, to);
}

using room = char[32];
const char* write_with_unit(std::uint64_t value, std::span<const unit> units, room& to) noexcept {
    const unit* in = &units.back();
    for (const unit& u : units) {
        if (value == 0 || value % u.factor != 0) continue;
        in = &u;
        break;
    }
    const std::string_view name = value == 0 && !in->name.empty() ? "s" : in->name;
    std::snprintf(to, sizeof to, "%llu%.*s", static_cast<unsigned long long>(value / in->factor),
                  static_cast<int>(name.size()), name.data());
    return to;
}

std::uint64_t load(const void* from, std::size_t width) noexcept {
    std::uint64_t value = 0; // little-endian: x86-64, arm64, riscv64
    std::memcpy(&value, from, width);
    return value;
}
void store(void* to, std::size_t width, std::uint64_t value) noexcept { std::memcpy(to, &value, width); }
static_assert(std::endian::native == std::endian::little, "load() and store() narrow by copying the low bytes");

// How many edits lead from one to the other (Levenshtein), for "did you mean".
std::size_t distance(std::string_view a, std::string_view b) noexcept {
    std::size_t row[64];
    if (b.size() >= std::size(row)) return a.size() + b.size();
    for (std::size_t j = 0; j <= b.size(); j++)
        row[j] = j;
    for (std::size_t i = 1; i <= a.size(); i++) {
        std::size_t diagonal = row[0];
        row[0] = i;
        for (std::size_t j = 1; j <= b.size(); j++) {
            const std::size_t changed = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            row[j] = std::min({changed, row[j] + 1, row[j - 1] + 1});
        }
    }
    return row[b.size()];
}

// Of a user or a group without a name. -1: no number.
std::int64_t number_of(const char* text) noexcept {
    std::uint64_t value = 0;
    return parse_count(text, value) && value < UINT32_MAX ? static_cast<std::int64_t>(value) : -1;
}

// Why a text is no address, in words.
const char* address_problem(int error) noexcept {
    if (error == EINVAL) return "is no address";
    if (error == ENOENT) return "names a host that is not known";
    return std::strerror(error);
}

} // namespace

void options::wrong(const char* name, const char* format, ...) noexcept {
    char reason[900];
    va_list values;
    va_start(values, format);
    std::vsnprintf(reason, sizeof reason, format, values);
    va_end(values);
    say("%s: %s", name, reason);
    std::exit(exit_usage);
}

// --- declaring

options::options(const about& what) noexcept : about_(what) { name_program(what.program); }

options::entry& options::add(kind is, const char* name, void* to, const char* help) noexcept {
    EXPECT(count_ < entries_max);
    entry& e = entries_[count_++];
    e.name = name;
    e.help = help;
    e.to = to;
    e.is = is;
    e.is_operand = name[0] != '-';
    return e;
}

void options::flag(const char* name, bool& to, const char* help) noexcept { add(kind::flag, name, &to, help); }

void options::time(const char* name, duration& to, const char* help, duration min) noexcept {
    entry& e = add(kind::time, name, &to, help);
    e.within = {static_cast<std::uint64_t>(min.count()), static_cast<std::uint64_t>(time_max.count())};
}

void options::number(kind is, const char* name, void* to, std::size_t width, const char* help,
                     range<std::uint64_t> within) noexcept {
    entry& e = add(is, name, to, help);
    const std::uint64_t width_max = width == 8 ? no_max : (std::uint64_t{1} << 8 * width) - 1;
    e.width = static_cast<std::uint8_t>(width);
    e.within = {within.min, std::min(within.max, width_max)};
}

void options::text(const char* name, const char*& to, const char* what, const char* help) noexcept {
    add(kind::text, name, &to, help).what = what;
}

void options::listen_at(const char* name, listen_place& to, const char* help) noexcept {
    add(kind::listen, name, &to, help);
}

void options::connect_to(const char* name, upstream_place& to) noexcept { add(kind::connect, name, &to, ""); }

void options::connect_to(const char* name, std::span<upstream_place> to, std::size_t& count) noexcept {
    entry& e = add(kind::connect, name, to.data(), "");
    e.places = to.size();
    e.taken = &count;
    count = 0;
}

// --- parsing

void options::parse(int argc, char** argv) noexcept {
    std::size_t operand_count = 0;
    bool only_operands = false;
    for (int i = 1; i < argc; i++)
        if (std::strcmp(argv[i], "--") == 0) break;
        else if (std::strcmp(argv[i], "--help") == 0) help();
    for (int i = 1; i < argc; i++) {
        const std::string_view word = argv[i];
        if (only_operands || word.substr(0, 1) != "-") {
            take_operand(argv[i], operand_count++);
            continue;
        }
        if (word == "--") {
            only_operands = true;
            continue;
        }
        if (word == "--version") {
            std::printf("%s %s\n", about_.program, WEIR_VERSION);
            std::exit(0);
        }
        const std::size_t equals = word.find('=');
        entry& e = find(word.substr(0, equals));
        const bool has_value = equals != word.npos;
        if (e.is == kind::flag) {
            if (has_value) wrong(e.name, "takes no value");
            *static_cast<bool*>(e.to) = true;
            continue;
        }
        if (!has_value && i + 1 == argc) wrong(e.name, "needs a value after it");
        take(e, has_value ? argv[i] + equals + 1 : argv[++i]);
    }
    if (const entry* e = operand(operand_count); e && !(e->taken && *e->taken > 0))
        wrong(e->name, "is missing. usage: %s %s", about_.program, about_.usage);
}

options::entry& options::find(std::string_view name) noexcept {
    for (entry& e : entries())
        if (!e.is_operand && e.name == name) return e;
    unknown(name);
}

// The operand that the word number `index` (from 0) belongs to; the last may take several. Null: one too many.
options::entry* options::operand(std::size_t index) noexcept {
    for (entry& e : entries()) {
        if (!e.is_operand) continue;
        if (index == 0 || e.taken) return &e;
        index--;
    }
    return nullptr;
}

void options::take_operand(const char* value, std::size_t index) noexcept {
    entry* e = operand(index);
    if (!e) wrong(value, "is one too many. usage: %s %s", about_.program, about_.usage);
    take(*e, value);
}

void options::unknown(std::string_view name) noexcept {
    const char* nearest = nullptr;
    std::size_t best = 4; // more edits than that are another word
    for (const entry& e : entries()) {
        const std::size_t d = e.is_operand ? best : distance(name, e.name);
        if (d >= best) continue;
        best = d;
        nearest = e.name;
    }
    char text[64];
    std::snprintf(text, sizeof text, "%.*s", static_cast<int>(std::min<std::size_t>(name.size(), 60)), name.data());
    if (nearest) wrong(text, "is no option; did you mean %s?", nearest);
    wrong(text, "is no option; --help lists them");
}

void options::take(entry& e, const char* value) noexcept {
    switch (e.is) {
    case kind::flag: break; // it takes none
    case kind::time:
    case kind::size:
    case kind::count: take_number(e, value); break;
    case kind::choice: take_choice(e, value); break;
    case kind::text:
        if (!*value) wrong(e.name, "must not be empty: %s", e.what);
        *static_cast<const char**>(e.to) = value;
        break;
    case kind::listen: take_listen(e, value); break;
    case kind::connect: take_upstream(e, value); break;
    }
}

void options::take_number(entry& e, const char* value) noexcept {
    const bool is_time = e.is == kind::time, is_size = e.is == kind::size;
    const char* wanted = is_time ? time_wanted : is_size ? size_wanted : count_wanted;
    std::uint64_t number = 0;
    duration time{};
    const bool parsed = is_time   ? parse_time(value, time)
                        : is_size ? parse_size(value, number)
                                  : parse_count(value, number);
    if (!parsed) wrong(e.name, "\"%s\" is not %s", value, wanted);
    if (is_time) number = static_cast<std::uint64_t>(time.count());

    const std::span<const unit> units = is_time ? std::span<const unit>{time_units} : size_units;
    room least, most;
    if (number < e.within.min || number > e.within.max) {
        if (e.is == kind::count)
            wrong(e.name, "%s is not within %llu..%llu", value, static_cast<unsigned long long>(e.within.min),
                  static_cast<unsigned long long>(e.within.max));
        wrong(e.name, "%s is not within %s..%s", value, write_with_unit(e.within.min, units, least),
              write_with_unit(e.within.max, units, most));
    }
    if (is_time) *static_cast<duration*>(e.to) = time;
    else store(e.to, e.width, number);
}

void options::take_choice(entry& e, const char* value) noexcept {
    for (std::size_t i = 0; i < e.words.size(); i++) {
        if (std::strcmp(e.words[i], value) != 0) continue;
        store(e.to, e.width, i);
        return;
    }
    char words[256] = "";
    for (std::size_t i = 0, at = 0; i < e.words.size() && at < sizeof words; i++) {
        const int n = std::snprintf(words + at, sizeof words - at, "%s%s", i == 0 ? "" : ", ", e.words[i]);
        at += static_cast<std::size_t>(n);
    }
    wrong(e.name, "\"%s\" is not one of: %s", value, words);
}

void options::take_listen(entry& e, const char* value) noexcept {
    listen_place& to = *static_cast<listen_place*>(e.to);
    to = {.file = to.file, .text = value};
    if (std::strncmp(value, "fd:", 3) == 0) {
        std::uint64_t fd = 0;
        if (!parse_count(value + 3, fd) || fd > 1u << 30) wrong(e.name, "\"%s\" is no descriptor: fd:3", value);
        to.fd = static_cast<int>(fd);
        return;
    }
    const std::string_view text = value;
    const bool is_unix = text.starts_with("unix:");
    const std::size_t comma = is_unix ? text.find(',') : text.npos;
    auto at = parse_address(text.substr(0, comma));
    if (!at) wrong(e.name, "\"%s\" %s; right would be %s, or fd:3", value, address_problem(at.error()), address_wanted);
    to.at = at.value();
    if (comma == text.npos) return;
    if (text.starts_with("unix:@")) wrong(e.name, "\"%s\": an abstract name has no file, and so no mode and no owner", value);
    if (to.file.mode < 0) wrong(e.name, "\"%s\": mode and owner cannot be chosen here", value);
    take_file(e, value, text.substr(comma + 1), to.file);
}

// "mode=660,user=www-data,group=33"
void options::take_file(const entry& e, const char* value, std::string_view parts, socket_file& to) noexcept {
    while (!parts.empty()) {
        const std::string_view part = parts.substr(0, parts.find(','));
        parts.remove_prefix(std::min(parts.size(), part.size() + 1));
        char word[64];
        const std::string_view name = part.substr(0, part.find('='));
        const std::string_view what = part.substr(std::min(part.size(), name.size() + 1));
        std::snprintf(word, sizeof word, "%.*s", static_cast<int>(std::min(what.size(), sizeof word - 1)), what.data());
        if (name == "mode") {
            unsigned mode = 0;
            const auto [end, error] = std::from_chars(what.begin(), what.end(), mode, 8);
            if (error != std::errc{} || end != what.end() || mode > 0777)
                wrong(e.name, "\"%s\": \"%s\" is no mode; right would be 660", value, word);
            to.mode = static_cast<std::int32_t>(mode);
        } else if (name == "user") {
            const passwd* known = ::getpwnam(word);
            to.user = known ? std::int64_t{known->pw_uid} : number_of(word);
            if (to.user < 0) wrong(e.name, "\"%s\": there is no user \"%s\"", value, word);
        } else if (name == "group") {
            const group* known = ::getgrnam(word);
            to.group = known ? std::int64_t{known->gr_gid} : number_of(word);
            if (to.group < 0) wrong(e.name, "\"%s\": there is no group \"%s\"", value, word);
        } else {
            wrong(e.name, "\"%s\": behind a comma stands mode=660, user=NAME or group=NAME", value);
        }
    }
}

void options::take_upstream(entry& e, const char* value) noexcept {
    const std::size_t already = e.taken ? *e.taken : 0;
    if (already == e.places) wrong(e.name, "more than %zu are not supported", e.places);
    upstream_place& to = static_cast<upstream_place*>(e.to)[already];
    std::size_t ignored = 0;
    if (const int error = look_up(value, to, ignored))
        wrong(e.name, "\"%s\" %s; right would be %s", value, address_problem(error), address_wanted);
    if (to.at[0].at.family() != AF_UNIX && to.at[0].at.port() == 0)
        wrong(e.name, "\"%s\" has port 0, at which nobody listens; right would be 1..65535", value);
    if (ignored > 0) say("%s has %zu addresses more than the %zu that are used", value, ignored, to.count);
    if (e.taken) ++*e.taken;
}

// --- --help

void options::help() noexcept {
    std::printf("usage: %s %s\n%s\n\n", about_.program, about_.usage, about_.purpose);
    for (const entry& e : entries()) {
        if (e.is_operand) continue;
        char left[64];
        const char* what = "";
        switch (e.is) {
        case kind::flag: break;
        case kind::time: what = " TIME"; break;
        case kind::size: what = " SIZE"; break;
        case kind::count: what = " N"; break;
        case kind::listen: what = " LISTEN"; break;
        case kind::connect: what = " ADDRESS"; break;
        case kind::choice:
        case kind::text: break;
        }
        std::size_t at = static_cast<std::size_t>(std::snprintf(left, sizeof left, "%s%s", e.name, what));
        if (e.is == kind::text) std::snprintf(left + at, sizeof left - at, " %s", e.what);
        for (std::size_t i = 0; i < e.words.size() && at < sizeof left; i++)
            at += static_cast<std::size_t>(
                std::snprintf(left + at, sizeof left - at, "%c%s", i == 0 ? ' ' : '|', e.words[i]));
        std::printf("  %-32s %s", left, e.help);

        room text;
        switch (e.is) {
        case kind::time: {
            const auto ns = static_cast<std::uint64_t>(static_cast<const duration*>(e.to)->count());
            std::printf(" [%s]", write_with_unit(ns, time_units, text));
            break;
        }
        case kind::size: std::printf(" [%s]", write_with_unit(load(e.to, e.width), size_units, text)); break;
        case kind::count: std::printf(" [%llu]", static_cast<unsigned long long>(load(e.to, e.width))); break;
        case kind::choice: std::printf(" [%s]", e.words[load(e.to, e.width)]); break;
        case kind::text:
            if (const char* value = *static_cast<const char* const*>(e.to)) std::printf(" [%s]", value);
            break;
        case kind::flag:
        case kind::listen:
        case kind::connect: break;
        }
        std::printf("\n");
    }
    std::printf("  %-32s\n  %-32s\n", "--help", "--version");
    std::printf("\nAddresses: %s.\nLISTEN also fd:3, and unix:/run/x.sock,mode=660,user=www-data,group=www-data: who may "
                "connect.\nA name: of LISTEN the first address, of UPSTREAM all, at most 8.\nTimes: 500us, 250ms, 2s, 1m. Sizes: 4096, 64k, 16m.\n\n"
                "examples:\n  %s\n  %s\n",
                address_wanted, about_.examples[0], about_.examples[1]);
    std::exit(0);
}

} // namespace weir::inline WEIR_KERNEL::tools
