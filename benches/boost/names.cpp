// Named objects with Boost.Interprocess: managed segments with the index of names that is its default, an ordered tree, and
// with the hash table that it has too.

#include <boost/interprocess/indexes/iunordered_set_index.hpp>
#include <boost/interprocess/managed_shared_memory.hpp>
#include <boost/interprocess/shared_memory_object.hpp>
#include <cstddef>
#include <cstdint>
#include <new>

namespace ipc = boost::interprocess;

namespace {

using Tree = ipc::managed_shared_memory;
using Hash = ipc::basic_managed_shared_memory<char, ipc::rbtree_best_fit<ipc::mutex_family>, ipc::iunordered_set_index>;

// The name of the file is taken away at once, so that nothing is left, whatever happens to the process.
template <class Segment> void *create(const char *name, std::size_t len) try {
    Segment *segment = new Segment(ipc::create_only, name, len);
    ipc::shared_memory_object::remove(name);
    return segment;
} catch (...) {
    ipc::shared_memory_object::remove(name);
    return nullptr;
}

// 0, or -1 if the name is taken or there is no memory.
template <class Segment> int publish(void *segment, const char *name, std::uint64_t value) try {
    static_cast<Segment *>(segment)->template construct<std::uint64_t>(name)(value);
    return 0;
} catch (...) {
    return -1;
}

// Null if there is no such name.
template <class Segment> const std::uint64_t *find(void *segment, const char *name) try {
    return static_cast<Segment *>(segment)->template find<std::uint64_t>(name).first;
} catch (...) {
    return nullptr;
}

template <class Segment> int unpublish(void *segment, const char *name) try {
    return static_cast<Segment *>(segment)->template destroy<std::uint64_t>(name) ? 0 : -1;
} catch (...) {
    return -1;
}

} // namespace

extern "C" {

void *boost_tree_create(const char *name, std::size_t len) { return create<Tree>(name, len); }
int boost_tree_publish(void *segment, const char *name, std::uint64_t value) { return publish<Tree>(segment, name, value); }
const std::uint64_t *boost_tree_find(void *segment, const char *name) { return find<Tree>(segment, name); }
int boost_tree_unpublish(void *segment, const char *name) { return unpublish<Tree>(segment, name); }
void boost_tree_drop(void *segment) { delete static_cast<Tree *>(segment); }

void *boost_hash_create(const char *name, std::size_t len) { return create<Hash>(name, len); }
int boost_hash_publish(void *segment, const char *name, std::uint64_t value) { return publish<Hash>(segment, name, value); }
const std::uint64_t *boost_hash_find(void *segment, const char *name) { return find<Hash>(segment, name); }
int boost_hash_unpublish(void *segment, const char *name) { return unpublish<Hash>(segment, name); }
void boost_hash_drop(void *segment) { delete static_cast<Hash *>(segment); }

} // extern "C"
