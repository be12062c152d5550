// replay: feeds files to a fuzz target, in a program without libFuzzer.
//
//     usage: weir-fuzz-NAME PATH...        a file, or a directory of files
//
// Each name is printed before its bytes are tried, so the last one printed is the one that failed. Nothing to feed
// is a failure: a test that found its corpus empty has tested nothing.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "fuzz/fuzz.hpp"

namespace {

using path = std::filesystem::path;

std::vector<path> files_under(const path& where) {
    if (!std::filesystem::is_directory(where)) return {where};
    std::vector<path> found;
    for (const auto& entry : std::filesystem::directory_iterator(where))
        if (entry.is_regular_file()) found.push_back(entry.path());
    std::sort(found.begin(), found.end());
    return found;
}

[[noreturn]] void fail(const std::string& what) {
    std::fprintf(stderr, "weir-fuzz: %s\n", what.c_str());
    std::exit(1);
}

void feed(const path& file) {
    std::ifstream in(file, std::ios::binary);
    if (!in) fail(file.string() + " cannot be read");
    const std::string bytes{std::istreambuf_iterator<char>(in), {}};
    std::printf("%s (%zu bytes)\n", file.filename().c_str(), bytes.size());
    std::fflush(stdout);
    const fuzz::alone copy{bytes};
    LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(copy.view().data()), bytes.size());
}

} // namespace

int main(int argc, char** argv) {
    std::size_t fed = 0;
    for (int i = 1; i < argc; i++) {
        const std::vector<path> files = files_under(argv[i]);
        if (files.empty()) fail(std::string(argv[i]) + " is empty");
        for (const path& file : files)
            feed(file);
        fed += files.size();
    }
    if (fed == 0) {
        std::fprintf(stderr, "usage: weir-fuzz-NAME PATH...\n");
        return 2;
    }
    std::printf("%zu inputs\n", fed);
    return 0;
}
