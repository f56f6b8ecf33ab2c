// The life of a segment with Boost.Interprocess: created or opened, touched, removed or closed.
//
// The functions give the number of pages touched, or -1 for an exception.

#include <boost/interprocess/managed_shared_memory.hpp>
#include <boost/interprocess/mapped_region.hpp>
#include <boost/interprocess/shared_memory_object.hpp>
#include <cstddef>

namespace ipc = boost::interprocess;

namespace {

constexpr std::size_t page = 4096;

int touch(void *base, std::size_t len) {
    int touched = 0;
    for (std::size_t offset = 0; offset < len; offset += page, ++touched) {
        static_cast<volatile char *>(base)[offset] = 1;
    }
    return touched;
}

} // namespace

extern "C" {

// A managed segment with a buffer of `len` bytes in it, and a page for what Boost needs beside it. Gives where the buffer
// is: its handle.
int boost_managed_create(const char *name, std::size_t len, std::size_t *handle) try {
    ipc::managed_shared_memory segment(ipc::create_only, name, len + page);
    void *buffer = segment.allocate(len);
    *handle = static_cast<std::size_t>(segment.get_handle_from_address(buffer));
    return touch(buffer, len);
} catch (...) {
    return -1;
}

int boost_managed_open(const char *name, std::size_t len, std::size_t handle) try {
    ipc::managed_shared_memory segment(ipc::open_only, name);
    return touch(segment.get_address_from_handle(static_cast<ipc::managed_shared_memory::handle_t>(handle)), len);
} catch (...) {
    return -1;
}

// Without an allocator: a shared memory object, and its mapping.
int boost_plain_create(const char *name, std::size_t len) try {
    ipc::shared_memory_object object(ipc::create_only, name, ipc::read_write);
    object.truncate(static_cast<ipc::offset_t>(len));
    ipc::mapped_region region(object, ipc::read_write);
    return touch(region.get_address(), len);
} catch (...) {
    return -1;
}

int boost_plain_open(const char *name, std::size_t len) try {
    ipc::shared_memory_object object(ipc::open_only, name, ipc::read_write);
    ipc::mapped_region region(object, ipc::read_write);
    return touch(region.get_address(), len);
} catch (...) {
    return -1;
}

// 0 if there was such a segment.
int boost_segment_remove(const char *name) {
    return ipc::shared_memory_object::remove(name) ? 0 : -1;
}

} // extern "C"
