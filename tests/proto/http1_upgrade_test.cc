// http1_upgrade: what is asked for, what is allowed, what a 101 may name.

#include "proto/http1_upgrade.hpp"

#include <string>
#include <string_view>

#include <doctest/doctest.h>

namespace {

using namespace weir;
using namespace std::string_literals;

http1_head parsed(http1_kind kind, const std::string& text) {
    http1_head head;
    head.start(kind);
    REQUIRE(head.parse(text) == http1_head::progress::done);
    return head;
}

http1_upgrade_set asked(const std::string& fields, std::string_view allowed, const char* version = "1.1") {
    const std::string text = "GET / HTTP/"s + version + "\r\nHost: h\r\n" + fields + "\r\n";
    return upgrades_asked(parsed(http1_kind::request, text), allowed);
}

bool switches(const std::string& fields, std::string_view allowed, http1_upgrade_set to) {
    const std::string text = "HTTP/1.1 101 Switching Protocols\r\n" + fields + "\r\n";
    return is_switch_to(parsed(http1_kind::response, text), allowed, to);
}

const std::string named = "Connection: Upgrade\r\n";

TEST_CASE("a list of upgrades is protocols between commas") {
    using enum http1_upgrades_error;
    CHECK(check_upgrades("") == none);
    CHECK(check_upgrades("websocket") == none);
    CHECK(check_upgrades(" websocket , irc/6.9\t") == none);
    CHECK(check_upgrades("http-alt, h2cx, TLS/1.0") == none);
    for (const char* bad : {",", "a,", ",a", "a,,b", "a b", "a/", "/1", "a/1/2", "a\xff", "a\n", "\"a\""})
        CHECK_MESSAGE(check_upgrades(bad) == not_a_protocol, bad);
    for (const char* hole : {"h2c", "H2C", "h2", "HTTP", "http/2.0", "websocket, HTTP/3", "h2c/1"})
        CHECK_MESSAGE(check_upgrades(hole) == http, hole);
}

TEST_CASE("a list of upgrades has a largest size") {
    std::string list = "a0";
    for (std::size_t i = 1; i < http1_upgrades_max; i++)
        list += ",a" + std::to_string(i);
    CHECK(check_upgrades(list) == http1_upgrades_error::none);
    CHECK(asked(named + "Upgrade: a0, a15\r\n", list) == 0x8001);
    list += ",more";
    CHECK(check_upgrades(list) == http1_upgrades_error::too_many);
}

TEST_CASE("a request asks for what it offers and the list allows") {
    struct {
        const char* fields;
        http1_upgrade_set is;
    } const rows[] = {
        {"Upgrade: a\r\n", 1},
        {"Upgrade: A\r\n", 1},
        {"upgrade: b/2\r\n", 2},
        {"Upgrade: B/2, a\r\n", 3},
        {"Upgrade: a\r\nUpgrade: b/2\r\n", 3},
        {"Upgrade: h2c, a\r\n", 1},
        {"Upgrade: ,, a ,\r\n", 1},
        {"Upgrade: h2c\r\n", 0},
        {"Upgrade: b\r\n", 0},
        {"Upgrade: b/3\r\n", 0},
        {"Upgrade: a/1\r\n", 0},
        {"Upgrade: aa\r\n", 0},
        {"Upgrade: a b/2\r\n", 0},
        {"Upgrade:\r\n", 0},
        {"", 0},
    };
    for (const auto& row : rows) {
        INFO(row.fields);
        CHECK(asked(named + row.fields, "a, b/2") == row.is);
        CHECK(asked(named + row.fields, "") == 0);
        CHECK(asked(row.fields, "a, b/2") == 0);                // Connection does not name it
        CHECK(asked(named + row.fields, "a, b/2", "1.0") == 0); // RFC 9110 section 7.8
    }
}

TEST_CASE("a 101 names what was asked for, at least one, and no other") {
    struct {
        const char* fields;
        bool is;
    } const rows[] = {
        {"Connection: upgrade\r\nUpgrade: a\r\n", true},
        {"Upgrade: a\r\n", true}, // Connection is left out
        {"Connection: close\r\nUpgrade: A\r\n", true},
        {"Upgrade: a, c\r\n", true},
        {"Upgrade: a\r\nUpgrade: c\r\n", true},
        {"Upgrade: b/2\r\n", false}, // allowed, and not asked for
        {"Upgrade: a, b/2\r\n", false},
        {"Upgrade: h2c\r\n", false},
        {"Upgrade: a, h2c\r\n", false},
        {"Upgrade: a/1\r\n", false},
        {"Upgrade: ,\r\n", false},
        {"Connection: upgrade\r\n", false},
        {"", false},
    };
    for (const auto& row : rows) {
        INFO(row.fields);
        CHECK(switches(row.fields, "a, b/2, c", 0b101) == row.is);
        CHECK_FALSE(switches(row.fields, "a, b/2, c", 0));
    }
}

} // namespace
