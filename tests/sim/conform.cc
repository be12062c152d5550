// conform: random scripts of system calls give the same answers on the simulated kernel and on the real one.
//
// A script (conform_script.hpp) opens, connects, sends, ends and watches sockets. A difference is a failure, unless its
// kind stands in the allow-list with a reason.
// The real kernel may take a moment: a script that differs is played again with pauses, and with longer ones, before it
// counts.

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <string>
#include <string_view>

#include "sim/conform_script.hpp"

namespace conform {

namespace {

constexpr int delayed_ack_ms = 50; // TCP acknowledges within 40 ms, and the acknowledgement of a FIN is an event

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
