// main: runs the test cases, and fails each that leaves the process other than it found it.
//
// A test case ends with the same open descriptors and without a live heap block of its own. Both are checked around
// the body itself: doctest decides whether a case passed before it tells its listeners that the case ended, so the
// listener below puts `checked_body` in the place of each body. What doctest allocates for its own use meanwhile is
// not the test's: its reporters run forgiven, and what it grew by the end of the body is moved to forgiven memory.

#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <map>
#include <stdexcept>
#include <string>
#include <utility>

#include <dirent.h>
#include <unistd.h>

#include "support/counting.hpp"

namespace {

using support::forgiven;

// Every open descriptor and what it stands for ("socket:[4711]").
std::map<int, std::string> open_descriptors() {
    std::map<int, std::string> open;
    DIR* dir = opendir("/proc/self/fd");
    if (!dir) throw std::runtime_error("/proc/self/fd cannot be read");
    while (const dirent* entry = readdir(dir)) {
        if (entry->d_name[0] == '.') continue;
        const int fd = std::stoi(entry->d_name);
        if (fd == dirfd(dir)) continue;
        char target[256];
        const ssize_t n = readlinkat(dirfd(dir), entry->d_name, target, sizeof target);
        open[fd] = n < 0 ? "?" : std::string(target, static_cast<std::size_t>(n));
    }
    closedir(dir);
    return open;
}

// One line per descriptor that differs. A number that was closed and taken again by something else differs too.
std::string difference(const std::map<int, std::string>& before, const std::map<int, std::string>& after) {
    std::string lines;
    for (const auto& [fd, target] : after) {
        const auto was = before.find(fd);
        if (was == before.end() || was->second != target)
            lines += "\n  descriptor left open: " + std::to_string(fd) + " -> " + target;
    }
    for (const auto& [fd, target] : before) {
        const auto is = after.find(fd);
        if (is == after.end() || is->second != target)
            lines += "\n  descriptor of somebody else closed: " + std::to_string(fd) + " -> " + target;
    }
    return lines;
}

std::string describe(const support::survivors& left) {
    if (left.count == 0) return {};
    std::string line = "\n  allocations not freed: " + std::to_string(left.count) + " (" + std::to_string(left.bytes) +
                       " bytes; sizes:";
    for (std::size_t i = 0; i < left.sizes.size() && i < left.count; i++)
        line += ' ' + std::to_string(left.sizes[i]);
    return line + (left.count > left.sizes.size() ? " ...)" : ")");
}

template <class T>
void move_to_forgiven_memory(T& container) {
    const forgiven these;
    T copy(container);
    copy.swap(container);
}

// The containers in which doctest keeps its place among subcases and INFO()s; they grow while a body runs. The names
// are those of doctest 2.4.9 to 2.4.12; with another version the worst is a false alarm in a case that has subcases.
template <class State>
void settle_doctest(State& state) {
    if constexpr (requires { state.nextSubcaseStack, state.fullyTraversedSubcases; }) {
        move_to_forgiven_memory(state.subcaseStack);
        move_to_forgiven_memory(state.nextSubcaseStack);
        move_to_forgiven_memory(state.fullyTraversedSubcases);
    }
    move_to_forgiven_memory(state.stringifiedContexts);
    move_to_forgiven_memory(doctest::detail::g_infoContexts);
    const forgiven these;
    doctest::detail::g_oss = {};
}

doctest::detail::funcType current_body = nullptr;

void checked_body() {
    const auto before = open_descriptors();
    support::watch_allocations();

    try {
        current_body();
    } catch (...) {
        support::stop_watching();
        throw; // the case has failed, and what a REQUIRE left behind would only hide why
    }

    settle_doctest(*doctest::detail::g_cs);
    const support::survivors left = support::stop_watching();
    const std::string trouble = describe(left) + difference(before, open_descriptors());
    const doctest::TestCaseData& test = *doctest::detail::g_cs->currentTest;
    if (!trouble.empty()) ADD_FAIL_AT(test.m_file.c_str(), static_cast<int>(test.m_line), "the test case leaks:" << trouble);
}

// Reporters keep what they heard, but on their own account.
class forgiven_reporter : public doctest::IReporter {
  public:
    explicit forgiven_reporter(doctest::IReporter* inner) : inner_(inner) {}
    forgiven_reporter(const forgiven_reporter&) = delete;
    forgiven_reporter& operator=(const forgiven_reporter&) = delete;
    ~forgiven_reporter() override { delete inner_; }

    void report_query(const doctest::QueryData& data) override { inner_->report_query(data); }
    void test_run_start() override { inner_->test_run_start(); }
    void test_run_end(const doctest::TestRunStats& stats) override { inner_->test_run_end(stats); }
    void test_case_start(const doctest::TestCaseData& test) override { inner_->test_case_start(test); }
    void test_case_reenter(const doctest::TestCaseData& test) override { inner_->test_case_reenter(test); }
    void test_case_end(const doctest::CurrentTestCaseStats& stats) override { inner_->test_case_end(stats); }
    void test_case_skipped(const doctest::TestCaseData& test) override { inner_->test_case_skipped(test); }
    void test_case_exception(const doctest::TestCaseException& e) override {
        const forgiven these;
        inner_->test_case_exception(e);
    }
    void subcase_start(const doctest::SubcaseSignature& subcase) override {
        const forgiven these;
        inner_->subcase_start(subcase);
    }
    void subcase_end() override {
        const forgiven these;
        inner_->subcase_end();
    }
    void log_assert(const doctest::AssertData& data) override {
        const forgiven these;
        inner_->log_assert(data);
    }
    void log_message(const doctest::MessageData& data) override {
        const forgiven these;
        inner_->log_message(data);
    }

  private:
    doctest::IReporter* inner_;
};

class leak_check : public doctest::IReporter {
  public:
    explicit leak_check(const doctest::ContextOptions&) {}

    void test_run_start() override {
        for (doctest::IReporter*& reporter : doctest::detail::g_cs->reporters_currently_used)
            if (reporter != this) reporter = new forgiven_reporter(reporter);
        settle_doctest(*doctest::detail::g_cs); // the first touch of its thread_locals registers their ends, once
    }
    void test_case_start(const doctest::TestCaseData& test) override { current_body = std::exchange(body_of(test), checked_body); }
    void test_case_end(const doctest::CurrentTestCaseStats&) override {
        body_of(*doctest::detail::g_cs->currentTest) = current_body;
    }

    void report_query(const doctest::QueryData&) override {}
    void test_run_end(const doctest::TestRunStats&) override {}
    void test_case_reenter(const doctest::TestCaseData&) override {}
    void test_case_exception(const doctest::TestCaseException&) override {}
    void subcase_start(const doctest::SubcaseSignature&) override {}
    void subcase_end() override {}
    void log_assert(const doctest::AssertData&) override {}
    void log_message(const doctest::MessageData&) override {}
    void test_case_skipped(const doctest::TestCaseData&) override {}

  private:
    static doctest::detail::funcType& body_of(const doctest::TestCaseData& test) {
        return const_cast<doctest::detail::TestCase&>(static_cast<const doctest::detail::TestCase&>(test)).m_test;
    }
};
REGISTER_LISTENER("leak_check", 1, leak_check);

} // namespace

int main(int argc, char** argv) {
    return doctest::Context(argc, argv).run();
}
