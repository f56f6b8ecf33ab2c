// What is measured of Boost.Interprocess: a managed_shared_memory, as it comes and without its mutex
//
// The segment loses its name as soon as it is mapped, so that it goes away with the process, however that ends.

#include <boost/interprocess/managed_shared_memory.hpp>
#include <boost/interprocess/shared_memory_object.hpp>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <new>

namespace bip = boost::interprocess;

namespace {

template <class Segment> Segment *create(const char *name, std::size_t len)
{
    try {
        auto *segment = new Segment(bip::create_only, name, len);
        bip::shared_memory_object::remove(name);
        return segment;
    } catch (const std::exception &error) {
        bip::shared_memory_object::remove(name);
        std::fprintf(stderr, "Boost.Interprocess: %s\n", error.what());
        return nullptr;
    }
}

// The default of the library: best fit by a red-black tree, behind a process-shared mutex.
using Locked = bip::managed_shared_memory;
using Bare = bip::basic_managed_shared_memory<char, bip::rbtree_best_fit<bip::null_mutex_family>, bip::iset_index>;

} // namespace

#define HEAP(prefix, Segment)                                                                                          \
    extern "C" void *prefix##_create(const char *name, std::size_t len)                                                \
    {                                                                                                                  \
        return create<Segment>(name, len);                                                                             \
    }                                                                                                                  \
    extern "C" void prefix##_destroy(void *segment)                                                                    \
    {                                                                                                                  \
        delete static_cast<Segment *>(segment);                                                                        \
    }                                                                                                                  \
    extern "C" void *prefix##_allocate(void *segment, std::size_t len)                                                 \
    {                                                                                                                  \
        return static_cast<Segment *>(segment)->allocate(len, std::nothrow);                                           \
    }                                                                                                                  \
    extern "C" void prefix##_free(void *segment, void *object)                                                         \
    {                                                                                                                  \
        static_cast<Segment *>(segment)->deallocate(object);                                                           \
    }                                                                                                                  \
    extern "C" bool prefix##_is_sound(void *segment)                                                                   \
    {                                                                                                                  \
        return static_cast<Segment *>(segment)->check_sanity();                                                        \
    }                                                                                                                  \
    extern "C" std::size_t prefix##_free_bytes(void *segment)                                                          \
    {                                                                                                                  \
        return static_cast<Segment *>(segment)->get_free_memory();                                                     \
    }

HEAP(boost_locked, Locked)
HEAP(boost_bare, Bare)
