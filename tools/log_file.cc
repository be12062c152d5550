// log_file: gathering, writing, going on in another file.

#include "tools/log_file.hpp"

#include <poll.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <climits>
#include <cstring>
#include <ctime>
#include <mutex>

#include "tools/process.hpp"

namespace weir::inline WEIR_KERNEL::tools {

namespace {

constexpr duration gather_time = milliseconds{100};
constexpr duration say_time = seconds{10};
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

const char* why(int error) noexcept { return error == ENXIO ? "nobody reads that pipe" : std::strerror(error); }

// It takes PIPE_BUF bytes without being waited for, or has an error to say. pipe(7): if only one writes to it.
bool takes_bytes(int fd) noexcept {
    pollfd what{.fd = fd, .events = POLLOUT, .revents = 0};
    return ::poll(&what, 1, 0) != 0;
}

constinit std::mutex one_writer; // to what is no file: between poll() and write() nobody else fills it

} // namespace

void log_file::open(event_loop& loop, const char* path) noexcept {
    loop_ = &loop;
    path_ = path;
    fd_ = std::strcmp(path, "-") == 0 ? STDOUT_FILENO : sys::open_append(path);
    if (fd_ < 0) fail("--access-log %s: %s", path, why(-fd_));
    owns_ = std::strcmp(path, "-") != 0;
    set_kind();
}

void log_file::set_kind() noexcept {
    struct stat known {};
    is_file_ = ::fstat(fd_, &known) == 0 && S_ISREG(known.st_mode);
}

void log_file::line(std::string_view text) noexcept {
    text = text.substr(0, line_bytes_max);
    const std::size_t bytes = stamp_bytes + text.size() + 1;
    if (size_ + bytes > sizeof room_ && !is_full_) flush(); // else it is for the timer to try again
    if (size_ + bytes > sizeof room_) {
        lost_count_++;
        return;
    }
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
    return is_file_ || left.size() <= PIPE_BUF ? left.size() : left.rfind('\n', PIPE_BUF - 1) + 1;
}

void log_file::flush() noexcept {
    flush_timer_.cancel();
    const std::size_t gone = write_out();
    std::memmove(room_, room_ + gone, size_ - gone);
    size_ -= gone;
    if (size_ > 0) loop_->arm_in(flush_timer_, gather_time);
    const bool is_time = said_at_ == never || loop_->now() - said_at_ >= say_time;
    if (lost_count_ > 0 && is_time) say_lost();
}

// How many bytes are done with: written, or lost.
std::size_t log_file::write_out() noexcept {
    std::unique_lock lock{one_writer, std::defer_lock};
    if (!is_file_) lock.lock();
    std::size_t at = 0;
    while (at < size_) {
        is_full_ = !is_file_ && !takes_bytes(fd_);
        if (is_full_) return at;
        const bool is_torn = is_torn_;
        const sys::count n = is_torn ? sys::write(fd_, "\n", 1) : sys::write(fd_, room_ + at, at_once(at));
        if (n == -EAGAIN) { // another process writes to it, too
            is_full_ = true;
            return at;
        }
        if (n <= 0) { // a full disk or a closed pipe: the proxy goes on
            is_torn_ = is_torn || (at > 0 && room_[at - 1] != '\n');
            lose_from(at);
            return size_;
        }
        is_torn_ = false;
        if (!is_torn) at += static_cast<std::size_t>(n);
    }
    return at;
}

void log_file::lose_from(std::size_t at) noexcept {
    lost_count_ += static_cast<std::uint64_t>(std::count(room_ + at, room_ + size_, '\n'));
}

void log_file::say_lost() noexcept {
    if (!takes_bytes(STDERR_FILENO)) return; // may well be the same pipe
    say("--access-log %s: %llu lines were lost, since they could not be written", path_,
        static_cast<unsigned long long>(lost_count_));
    lost_count_ = 0;
    said_at_ = loop_->now();
}

void log_file::reopen() noexcept {
    if (!owns_) return;
    flush();
    const int fd = sys::open_append(path_);
    if (fd < 0) {
        say("%s cannot be opened anew, the old file is written on: %s", path_, why(-fd));
        return;
    }
    close();
    fd_ = fd;
    owns_ = true;
    is_torn_ = is_full_ = false;
    set_kind();
}

void log_file::close() noexcept {
    if (fd_ >= 0) flush();
    flush_timer_.cancel();
    lose_from(0);
    size_ = 0;
    if (lost_count_ > 0) say_lost();
    if (owns_) sys::close(fd_);
    owns_ = false;
    fd_ = -1;
}

} // namespace weir::inline WEIR_KERNEL::tools
