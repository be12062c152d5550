// log_file: gathering, writing, going on in another file.

#include "tools/log_file.hpp"

#include <chrono>
#include <climits>
#include <cstring>
#include <ctime>

#include "tools/process.hpp"

namespace weir::inline WEIR_KERNEL::tools {

namespace {

constexpr duration gather_time = milliseconds{100};
constexpr std::size_t stamp_bytes = 25; // "2026-11-23T21:35:00.123Z "
constexpr std::size_t line_bytes_max = 2048;
static_assert(stamp_bytes + line_bytes_max + 1 <= PIPE_BUF, "a line goes into a pipe at once");

// Right-aligned in exactly `width` characters, and what comes after them; where the next one goes.
char* write_digits(char* to, std::uint32_t value, int width, char after) noexcept {
    for (int i = width; i-- > 0; value /= 10)
        to[i] = static_cast<char>('0' + value % 10);
    to[width] = after;
    return to + width + 1;
}

// The wall clock: not the loop's, which counts from the machine's start. RFC 3339 section 5.6. Not gmtime_r(): glibc's
// reads /etc/localtime the first time, in the middle of a request.
void write_stamp(char (&to)[stamp_bytes]) noexcept {
    using namespace std::chrono;
    timespec at{};
    ::clock_gettime(CLOCK_REALTIME, &at);
    const sys_days today = floor<days>(sys_seconds{seconds{at.tv_sec}});
    const year_month_day date{today};
    const hh_mm_ss time{sys_seconds{seconds{at.tv_sec}} - today};
    const auto digits = [](auto part) noexcept { return static_cast<std::uint32_t>(part.count()); };
    char* next = write_digits(to, static_cast<std::uint32_t>(static_cast<int>(date.year())), 4, '-');
    next = write_digits(next, static_cast<unsigned>(date.month()), 2, '-');
    next = write_digits(next, static_cast<unsigned>(date.day()), 2, 'T');
    next = write_digits(next, digits(time.hours()), 2, ':');
    next = write_digits(next, digits(time.minutes()), 2, ':');
    next = write_digits(next, digits(time.seconds()), 2, '.');
    next = write_digits(next, static_cast<std::uint32_t>(at.tv_nsec / 1'000'000), 3, 'Z');
    *next = ' ';
}

} // namespace

void log_file::open(event_loop& loop, const char* path) noexcept {
    loop_ = &loop;
    path_ = path;
    fd_ = std::strcmp(path, "-") == 0 ? STDOUT_FILENO : sys::open_append(path);
    if (fd_ < 0) fail("--access-log %s: %s", path, std::strerror(-fd_));
    owns_ = std::strcmp(path, "-") != 0;
}

void log_file::line(std::string_view text) noexcept {
    text = text.substr(0, line_bytes_max);
    if (size_ + stamp_bytes + text.size() + 1 > sizeof room_) flush();
    if (!flush_timer_.armed()) loop_->arm_in(flush_timer_, gather_time);
    char stamp[stamp_bytes];
    write_stamp(stamp);
    const auto put = [&](std::string_view part) noexcept {
        std::memcpy(room_ + size_, part.data(), part.size());
        size_ += part.size();
    };
    put({stamp, stamp_bytes});
    put(text);
    put("\n");
}

// How many bytes from there on are written by one call. What is longer than PIPE_BUF a full pipe takes in pieces, and
// another thread's come in between: pipe(7). So there it is as many lines as fit.
std::size_t log_file::at_once(std::size_t at) const noexcept {
    const std::string_view left{room_ + at, size_ - at};
    return owns_ || left.size() <= PIPE_BUF ? left.size() : left.rfind('\n', PIPE_BUF - 1) + 1;
}

void log_file::flush() noexcept {
    flush_timer_.cancel();
    if (is_torn_ && size_ > 0) is_torn_ = sys::write(fd_, "\n", 1) != 1;
    for (std::size_t at = 0; at < size_ && !is_torn_;) {
        const sys::count n = sys::write(fd_, room_ + at, at_once(at));
        if (n <= 0) { // a full disk or a closed pipe: the proxy goes on, the lines are lost
            is_torn_ = at > 0 && room_[at - 1] != '\n';
            break;
        }
        at += static_cast<std::size_t>(n);
    }
    size_ = 0;
}

void log_file::reopen() noexcept {
    if (!owns_) return;
    flush();
    const int fd = sys::open_append(path_);
    if (fd < 0) {
        say("%s cannot be opened anew, the old file is written on: %s", path_, std::strerror(-fd));
        return;
    }
    close();
    fd_ = fd;
    owns_ = true;
    is_torn_ = false;
}

void log_file::close() noexcept {
    if (fd_ >= 0) flush();
    if (owns_) sys::close(fd_);
    owns_ = false;
    fd_ = -1;
}

} // namespace weir::inline WEIR_KERNEL::tools
