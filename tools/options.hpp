#pragma once
// options: the command line of a weir tool.
//
//     options o{{.program = "weir-x", .usage = "[options] LISTEN", .purpose = "Does x.",
//                .examples = {"weir-x 127.0.0.1:8080", "weir-x --idle 2s unix:/run/x.sock"}}};
//     o.time("--idle", cfg.idle, "close what is idle for longer");
//     o.listen_at("LISTEN", cfg.listen);
//     o.parse(argc, argv);
//
// Each line binds a name to a variable, whose value at that moment is the default that --help shows. parse() returns
// only if everything was right. A mistake goes to stderr with the option and what would be right, and ends the
// program with 2; --help and --version end it with 0.
//
// Understood: --name VALUE, --name=VALUE, --flag; operands anywhere; after "--" only operands.
// Times carry a unit (500us 250ms 2s 1m 1h), sizes may (64k 16m 1g, of 1024), counts are plain.
// Thread: main's, before others start. Texts are borrowed: literals, and argv.

#include <array>
#include <concepts>
#include <cstdint>
#include <span>
#include <string_view>
#include <type_traits>

#include "tools/names.hpp"

namespace weir::inline WEIR_KERNEL::tools {

class options {
  public:
    struct about {
        const char* program;
        const char* usage;       // what follows the program's name
        const char* purpose;     // one or two sentences
        const char* examples[2]; // commands that work
    };
    template <class T>
    struct range {
        T min{};
        T max{};
    };
    static constexpr std::uint64_t no_max = UINT64_MAX;

    explicit options(const about& what) noexcept;

    void flag(const char* name, bool& to, const char* help) noexcept;
    // At least `min`, at most a year.
    void time(const char* name, duration& to, const char* help, duration min = duration{0}) noexcept;
    template <std::unsigned_integral T>
    void size(const char* name, T& to, const char* help, range<std::uint64_t> within = {0, no_max}) noexcept {
        number(kind::size, name, &to, sizeof to, help, within);
    }
    template <std::unsigned_integral T>
    void count(const char* name, T& to, const char* help, range<std::uint64_t> within = {0, no_max}) noexcept {
        number(kind::count, name, &to, sizeof to, help, within);
    }
    // `words` in the order of the enum's values, which begin at 0. Borrowed: a static array.
    template <class Enum>
    requires std::is_enum_v<Enum>
    void choice(const char* name, Enum& to, std::span<const char* const> words, const char* help) noexcept {
        entry& e = add(kind::choice, name, &to, help);
        e.width = sizeof to;
        e.words = words;
    }
    // A file name or the like; `what` stands for it in --help: "FILE".
    void text(const char* name, const char*& to, const char* what, const char* help) noexcept;
    // The default of its file is what `to` has: "unix:/path,mode=660,user=NAME,group=NAME" changes it, where `to` has a mode.
    void listen_at(const char* name, listen_place& to, const char* help = "") noexcept;

    // Operands, in this order: a name without dashes. The last one may take all that are left, at least one.
    void connect_to(const char* name, upstream_place& to) noexcept;
    void connect_to(const char* name, std::span<upstream_place> to, std::size_t& count) noexcept;

    void parse(int argc, char** argv) noexcept;

    // For what only the program can know: "PROGRAM: NAME: what would be right", and ends with 2.
    [[noreturn, gnu::format(printf, 2, 3)]] static void wrong(const char* name, const char* format, ...) noexcept;

  private:
    enum class kind : std::uint8_t { flag, time, size, count, choice, text, listen, connect };
    struct entry {
        const char* name = nullptr;
        const char* help = "";
        const char* what = ""; // text: what it stands for
        void* to = nullptr;
        std::span<const char* const> words{};   // choice
        range<std::uint64_t> within{0, no_max}; // time (in ns), size, count
        std::size_t places = 1;                 // connect: how many `to` points to
        std::size_t* taken = nullptr;           // connect: where their number goes
        kind is = kind::flag;
        std::uint8_t width = 0; // size, count, choice: bytes of *to
        bool is_operand = false;
    };
    static constexpr std::size_t entries_max = 64;

    entry& add(kind is, const char* name, void* to, const char* help) noexcept;
    void number(kind is, const char* name, void* to, std::size_t width, const char* help,
                range<std::uint64_t> within) noexcept;
    std::span<entry> entries() noexcept { return {entries_.data(), count_}; }
    entry& find(std::string_view name) noexcept;
    entry* operand(std::size_t index) noexcept;
    void take_operand(const char* value, std::size_t index) noexcept;
    static void take(entry& e, const char* value) noexcept;
    static void take_number(entry& e, const char* value) noexcept;
    static void take_choice(entry& e, const char* value) noexcept;
    static void take_listen(entry& e, const char* value) noexcept;
    static void take_file(const entry& e, const char* value, std::string_view parts, socket_file& to) noexcept;
    static void take_upstream(entry& e, const char* value) noexcept;
    [[noreturn]] void unknown(std::string_view name) noexcept;
    [[noreturn]] void help() noexcept;

    about about_;
    std::array<entry, entries_max> entries_{};
    std::size_t count_ = 0;
};

} // namespace weir::inline WEIR_KERNEL::tools
