// weir-proxy-line: the parser and the printer of PROXY lines as a program, for proxy_line.py to hold against others'.
//
//     usage: weir-proxy-line read HEX
//            weir-proxy-line print v1|v2|v2-crc32c SOURCE DESTINATION
//
// `read` says "more", "bad NAME", or what was read, a fact a line; `print` says the bytes in hex.

#include <array>
#include <cstdio>
#include <string>
#include <string_view>

#include "proto/address.hpp"
#include "proto/proxy_line.hpp"

using namespace weir;

namespace {

int usage() {
    std::fprintf(stderr, "usage: weir-proxy-line read HEX\n"
                         "       weir-proxy-line print v1|v2|v2-crc32c SOURCE DESTINATION\n");
    return 2;
}

void print_hex(std::string_view bytes) {
    for (const char byte : bytes)
        std::printf("%02x", static_cast<unsigned>(static_cast<unsigned char>(byte)));
}

int value_of(char digit) {
    const std::size_t at = std::string_view{"0123456789abcdef"}.find(digit);
    return at == std::string_view::npos ? -1 : static_cast<int>(at);
}

bool from_hex(std::string_view text, std::string& bytes) {
    if (text.size() % 2 != 0) return false;
    for (; !text.empty(); text.remove_prefix(2)) {
        const int high = value_of(text[0]), low = value_of(text[1]);
        if (high < 0 || low < 0) return false;
        bytes += static_cast<char>(high << 4 | low);
    }
    return true;
}

void print_endpoint(const char* name, const endpoint& at) {
    std::array<char, endpoint::text_max> room;
    const std::string_view text = at.specified() ? at.text(room) : "-";
    std::printf("%s %.*s\n", name, static_cast<int>(text.size()), text.data());
}

int read(std::string_view hex) {
    std::string bytes;
    if (!from_hex(hex, bytes)) return usage();
    proxy_line line;
    line.start({.tlvs = proxy_tlvs::keep});
    const proxy_line::progress end = line.parse(bytes);
    if (end == proxy_line::progress::more) return std::puts("more"), 0;
    if (end == proxy_line::progress::bad) return std::printf("bad %s\n", to_string(line.error())), 0;

    std::printf("version %d\nsize %zu\n", line.version(), line.size());
    std::printf("command %s\n", line.command() == proxy_command::local ? "local" : "proxy");
    print_endpoint("source", line.source());
    print_endpoint("destination", line.destination());
    std::string_view rest = line.tlvs();
    for (proxy_tlv tlv; next_tlv(rest, tlv);) {
        std::printf("tlv-%d ", tlv.type);
        print_hex(tlv.value);
        std::puts("");
    }
    return 0;
}

int print(std::string_view form, std::string_view from, std::string_view to) {
    const auto source = parse_address(from), destination = parse_address(to);
    if (!source || !destination || (form != "v1" && form != "v2" && form != "v2-crc32c")) return usage();
    std::array<char, proxy_v2_bytes_max + 7> room;
    const proxy_checksum checksum = form == "v2" ? proxy_checksum::none : proxy_checksum::crc32c;
    print_hex(form == "v1" ? write_proxy_v1(std::span{room}.first<proxy_v1_bytes_max>(), source.value().at,
                                            destination.value().at)
                           : write_proxy_v2(room, source.value().at, destination.value().at, {}, checksum));
    std::puts("");
    return 0;
}

} // namespace

int main(int argc, char** argv) {
    const std::string_view what = argc > 1 ? argv[1] : "";
    if (what == "read" && argc == 3) return read(argv[2]);
    if (what == "print" && argc == 5) return print(argv[2], argv[3], argv[4]);
    return usage();
}
