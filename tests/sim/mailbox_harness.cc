// mailbox_harness: letters from other threads, step by step.
//
// The other threads are real, but one goes on at a time: each waits at every interleave() of the library, and between
// any two calls, until it is given a step. The loop's thread gives steps at its own interleave()s, and while it sleeps.
// So the seed draws every order in which the atomic operations of a post and of a loop that falls asleep can come.

#include <array>
#include <semaphore>
#include <thread>

#include "sim/world.hpp"

namespace simtest {

namespace {

class letter_writers {
  public:
    explicit letter_writers(world& w) : world_(w), count_(w.k.chance.between(1, writers_max)), alive_(count_) {
        for (std::uint32_t i = 0; i < count_; i++) {
            writer& who = writers_[i];
            who.home = this;
            who.letters_count = w.k.chance.between(1, letters_max);
            for (parcel& p : who.parcels)
                p.from = &who;
            who.thread = std::thread([&who] { who.home->write(who); });
        }
        w.k.on_interleave([](void* at) noexcept { static_cast<letter_writers*>(at)->interleave(); }, this);
        w.k.on_sleep([](void* at) noexcept { static_cast<letter_writers*>(at)->asleep(); }, this);
        plan_step();
    }
    letter_writers(const letter_writers&) = delete;
    letter_writers& operator=(const letter_writers&) = delete;
    ~letter_writers() {
        world_.k.on_interleave(nullptr, nullptr);
        world_.k.on_sleep(nullptr, nullptr);
    }

    // Until the last writer has stopped the loop.
    void run() {
        world_.loop->run();
        const std::uint64_t last = world_.loop->turn_count();
        if (last_word_turn_ != 0 && last_word_turn_ != last) world_.k.violate("I19", "turns were taken after stop()");
        while (alive_ > 0) // behind its stop() the last one has a word to say
            give(random_writer());
        world_.turn(duration{});
        for (std::uint32_t i = 0; i < count_; i++) {
            writers_[i].thread.join();
            if (writers_[i].ran != writers_[i].letters_count)
                world_.k.violate("I4", "a letter was posted and never ran");
        }
        if (last_word_turn_ == 0) world_.k.violate("I4", "a letter was posted and never ran");
    }

  private:
    static constexpr std::uint32_t writers_max = 3, letters_max = 6;

    struct writer;
    struct parcel {
        writer* from = nullptr;
        std::uint32_t number = 0;
        letter l;
    };
    struct writer {
        letter_writers* home = nullptr;
        std::thread thread;
        std::binary_semaphore go{0};
        std::array<parcel, letters_max> parcels{};
        std::uint32_t letters_count = 0, ran = 0;
        bool is_posting = false, is_through = false;
    };

    // ---- in a writer's thread

    void write(writer& who) noexcept {
        self = &who;
        who.go.acquire();
        world_.k.make_current();
        for (std::uint32_t i = 0; i < who.letters_count; i++) {
            parcel& p = who.parcels[i];
            p.number = i;
            p.l.run = [](letter& l) noexcept { arrived(container_of<&parcel::l>(l)); };
            post(who, p.l);
            interleave();
        }
        if (--writing_ == 0) say_last_words(who);
        who.is_through = true;
        alive_--;
        back_.release();
    }

    void post(writer& who, letter& l) noexcept {
        who.is_posting = true;
        world_.loop->post(l);
        who.is_posting = false;
    }

    void say_last_words(writer& who) noexcept {
        who.is_posting = true;
        world_.loop->stop();
        who.is_posting = false;
        last_words_.home = this;
        last_words_.l.run = [](letter& l) noexcept {
            letter_writers& home = *container_of<&last_words::l>(l).home;
            home.last_word_turn_ = home.world_.loop->turn_count();
        };
        post(who, last_words_.l);
    }

    // ---- in the loop's thread

    static void arrived(parcel& p) noexcept {
        kernel& k = p.from->home->world_.k;
        if (p.number != p.from->ran) k.violate("I6", "letters of one thread ran in another order, or twice");
        p.from->ran++;
        k.progress();
    }

    // With no edge of the eventfd on its way.
    void asleep() noexcept {
        world_.check->asleep();
        for (std::uint32_t i = 0; i < count_; i++)
            if (writers_[i].is_posting) return; // and going to ring
        if (!world_.loop->letters().empty())
            world_.k.violate("I4", "asleep with a letter, and nobody is going to ring");
    }

    void plan_step() noexcept {
        const duration wait = world_.k.chance.between(duration{}, duration{milliseconds{2}});
        world_.k.time.plan(
            world_.k.time.now + wait,
            [](void* at, std::uint32_t) noexcept {
                letter_writers& home = *static_cast<letter_writers*>(at);
                if (home.alive_ == 0) return;
                if (!self) home.give(home.random_writer());
                home.plan_step();
            },
            this, 0);
    }

    // ---- the baton

    void interleave() noexcept {
        if (self) {
            writer& me = *self;
            back_.release();
            me.go.acquire();
            return;
        }
        while (alive_ > 0 && world_.k.chance.coin())
            give(random_writer());
    }

    writer& random_writer() noexcept {
        std::uint32_t skip = world_.k.chance.below(alive_);
        for (writer& who : writers_)
            if (who.thread.joinable() && !who.is_through && skip-- == 0) return who;
        return writers_[0];
    }

    void give(writer& who) noexcept {
        who.go.release();
        back_.acquire();
    }

    struct last_words {
        letter_writers* home = nullptr;
        letter l;
    };
    static thread_local writer* self; // null: the loop's thread

    world& world_;
    std::array<writer, writers_max> writers_{};
    const std::uint32_t count_;
    std::uint32_t alive_, writing_ = count_;
    std::binary_semaphore back_{0};
    last_words last_words_;
    std::uint64_t last_word_turn_ = 0; // in which it ran; 0: it has not
};

thread_local letter_writers::writer* letter_writers::self = nullptr;

std::uint64_t run(std::uint64_t seed) {
    world w{seed, {.may_spin = true}};
    w.k.faults.resume();
    std::optional<letter_writers> writers;
    writers.emplace(w);
    writers->run();
    writers.reset();
    w.k.heal();
    w.close_conns();
    w.tear_down();
    return w.k.log.hash();
}

} // namespace

const harness mailbox_harness{.name = "mailbox", .run = run};

} // namespace simtest
