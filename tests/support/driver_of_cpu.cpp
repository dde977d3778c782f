// CUDA's driver on this machine's CPU, as far as cuda-core needs it here: one device, streams, events, memory, launches.
//
// A card may carry out what is in a stream at any time until the host waits for it. This driver does it as late as that
// allows: a buffer that is written again too early, or read before its stream has been waited for, holds wrong numbers.
// New memory of the device, and memory that was given back, holds nan.
#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <mutex>

namespace {

const int LOST = 700;  // an illegal address

struct Stream;
struct Event {
  Stream* stream = nullptr;
  uint64_t number = 0;  // of the command that records it
};
struct Stream {
  std::deque<std::function<void()>> commands;
  uint64_t queued = 0, done = 0;
  bool is_closed = false;  // a card carries out what is left
};

// Never destroyed: cuda-core gives memory back when the process has almost ended.
std::recursive_mutex& lock = *new std::recursive_mutex;
#define LOCKED std::lock_guard<std::recursive_mutex> guard(lock)

std::map<void*, size_t>& sizes = *new std::map<void*, size_t>;  // of memory of the device
std::map<void*, size_t>& pinned = *new std::map<void*, size_t>;  // of memory of the host
size_t used_bytes, most_bytes, pinned_bytes, most_pinned_bytes, launch_count, done_count;
bool is_lost;  // as a card is behind a launch that failed: what the host asks next is told
void* context;

Stream* stream_of(void* handle) {
  static Stream* of_all = new Stream();  // the default stream, whose handle is a small number
  return reinterpret_cast<uintptr_t>(handle) < 16 ? of_all : static_cast<Stream*>(handle);
}

void run_until(Stream* stream, uint64_t number) {
  while (stream->done < number) {
    auto command = std::move(stream->commands.front());
    stream->commands.pop_front();
    ++stream->done;
    command();
  }
}

int add(void* handle, std::function<void()> command) {
  LOCKED;
  if (is_lost) return LOST;
  Stream* stream = stream_of(handle);
  stream->commands.push_back(std::move(command));
  ++stream->queued;
  if (stream->is_closed) run_until(stream, stream->queued);
  return 0;
}

long setting(const char* name, long otherwise) {
  const char* found = getenv(name);
  return found ? atol(found) : otherwise;
}

int allocate(void** out, size_t size) {
  LOCKED;
  if (used_bytes + size > size_t(setting("CARD_BYTES", 1L << 33))) return 2;  // out of memory
  *out = malloc(size);
  memset(*out, 0xff, size);
  sizes[*out] = size;
  used_bytes += size;
  if (used_bytes > most_bytes) most_bytes = used_bytes;
  return 0;
}

void give_back(void* memory) {
  LOCKED;
  used_bytes -= sizes[memory];
  memset(memory, 0xff, sizes[memory]);
  sizes.erase(memory);
  free(memory);
}

struct LaunchConfig {
  unsigned grid[3], block[3], shared_bytes;
  void* stream;
  void* attributes;
  unsigned attribute_count;
};

typedef void (*Evaluate)(void*, void*, void*, void*, void*, int, int, void*, void*);

int launch(void* stream, void* kernel, void** parameters) {
  LOCKED;
  ++launch_count;
  const Evaluate evaluate = reinterpret_cast<Evaluate>(kernel);
  void* pointers[7];
  int numbers[2];
  const int places[7] = {0, 1, 2, 3, 4, 7, 8};
  for (int k = 0; k < 7; ++k) pointers[k] = *static_cast<void**>(parameters[places[k]]);
  for (int k = 0; k < 2; ++k) numbers[k] = *static_cast<int*>(parameters[5 + k]);
  return add(stream, [=] {
    evaluate(pointers[0], pointers[1], pointers[2], pointers[3], pointers[4], numbers[0], numbers[1], pointers[5],
             pointers[6]);
    is_lost |= ++done_count == size_t(setting("CARD_FAILS_AT", 0));
  });
}

}  // namespace

extern "C" {

// What tests ask.
size_t card_most_bytes() { return most_bytes; }
size_t card_most_pinned_bytes() { return most_pinned_bytes; }
size_t card_used_bytes() { return used_bytes + pinned_bytes; }
size_t card_launches() { return launch_count; }
size_t card_launches_done() { return done_count; }

int cuGetProcAddress_v2(const char* name, void** out, int, unsigned long long, int* status) {
  static void* self = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
  *out = dlsym(self, name);
  if (status) *status = *out ? 0 : 1;
  return *out ? 0 : 500;
}
int cuGetProcAddress(const char* name, void** out, int version, unsigned long long flags, int* status) {
  return cuGetProcAddress_v2(name, out, version, flags, status);
}

int cuGetErrorName(int code, const char** out) {
  *out = code == 2     ? "CUDA_ERROR_OUT_OF_MEMORY"
         : code == 200 ? "CUDA_ERROR_INVALID_IMAGE"
         : code == LOST ? "CUDA_ERROR_ILLEGAL_ADDRESS"
                       : "CUDA_ERROR_UNKNOWN";
  return 0;
}
int cuGetErrorString(int, const char** out) { return *out = "said by the driver of the tests", 0; }

int cuInit(unsigned) { return 0; }
int cuGetExportTable(const void**, const void*) { return 500; }  // NVRTC asks

int cuDriverGetVersion(int* out) { return *out = 13000, 0; }
int cuDeviceGetCount(int* out) { return *out = 1, 0; }
int cuDeviceGet(int* out, int number) { return *out = 0, number == 0 ? 0 : 101; }
int cuDeviceGetName(char* out, int size, int) { return snprintf(out, size, "card of the tests"), 0; }
int cuDeviceGetUuid(char* out, int) { return memset(out, 1, 16), 0; }
int cuDeviceTotalMem(size_t* out, int) { return *out = setting("CARD_BYTES", 1L << 33), 0; }
int cuDeviceGetAttribute(int* out, int attribute, int) {
  switch (attribute) {
    case 16: *out = 2; break;   // multiprocessors
    case 75: *out = 9; break;   // of the architecture sm_90
    case 76: *out = 0; break;
    case 115: *out = 1; break;  // pools of memory
    case 41: *out = 1; break;   // addresses are those of the host
    default: *out = 0;
  }
  return 0;
}
int cuDevicePrimaryCtxRetain(void** out, int) { return *out = &context, 0; }
int cuDevicePrimaryCtxRelease(int) { return 0; }
int cuCtxGetCurrent(void** out) { return *out = context, 0; }
int cuCtxSetCurrent(void* given) { return context = given, 0; }
int cuCtxGetDevice(int* out) { return *out = 0, 0; }
int cuCtxGetStreamPriorityRange(int* least, int* greatest) { return *least = *greatest = 0, 0; }
int cuMemGetInfo(size_t* free_bytes, size_t* total) {
  *total = setting("CARD_BYTES", 1L << 33);
  *free_bytes = *total - used_bytes;
  return 0;
}

int cuDeviceGetMemPool(void** out, int) { return *out = &sizes, 0; }
int cuDeviceGetDefaultMemPool(void** out, int) { return *out = &sizes, 0; }
int cuMemPoolGetAttribute(void*, int, void* out) { return memset(out, 0, 8), 0; }
int cuMemPoolSetAttribute(void*, int, void*) { return 0; }
int cuMemAllocFromPoolAsync(void** out, size_t size, void*, void*) { return allocate(out, size); }
int cuMemAllocAsync(void** out, size_t size, void*) { return allocate(out, size); }
int cuMemAlloc(void** out, size_t size) { return allocate(out, size); }
int cuMemFreeAsync(void* memory, void* stream) { return add(stream, [=] { give_back(memory); }); }
int cuMemFree(void* memory) { return give_back(memory), 0; }
int cuMemAllocHost(void** out, size_t size) {
  LOCKED;
  *out = malloc(size);
  pinned[*out] = size;
  pinned_bytes += size;
  if (pinned_bytes > most_pinned_bytes) most_pinned_bytes = pinned_bytes;
  return 0;
}
int cuMemFreeHost(void* memory) {
  LOCKED;
  pinned_bytes -= pinned[memory];
  memset(memory, 0xff, pinned[memory]);
  pinned.erase(memory);
  return free(memory), 0;
}

int cuMemcpyAsync(void* to, const void* from, size_t size, void* stream) {
  return add(stream, [=] { memcpy(to, from, size); });
}
int cuMemcpyHtoDAsync(void* to, const void* from, size_t size, void* stream) {
  return cuMemcpyAsync(to, from, size, stream);
}
int cuMemcpyDtoHAsync(void* to, const void* from, size_t size, void* stream) {
  return cuMemcpyAsync(to, from, size, stream);
}
int cuMemsetD8Async(void* memory, unsigned char value, size_t count, void* stream) {
  return add(stream, [=] { memset(memory, value, count); });
}

int cuStreamCreateWithPriority(void** out, unsigned, int) { return *out = new Stream(), 0; }
int cuStreamDestroy(void* handle) {  // the struct stays: events may still name it
  LOCKED;
  Stream* stream = stream_of(handle);
  stream->is_closed = true;
  return run_until(stream, stream->queued), 0;
}
int cuStreamSynchronize(void* handle) {
  LOCKED;
  Stream* stream = stream_of(handle);
  return run_until(stream, stream->queued), is_lost ? LOST : 0;
}
int cuStreamIsCapturing(void*, int* out) { return *out = 0, 0; }
int cuStreamGetCtx(void*, void** out) { return *out = context, 0; }
int cuEventCreate(void** out, unsigned) { return *out = new Event(), 0; }
int cuEventDestroy(void* event) { return delete static_cast<Event*>(event), 0; }
int cuEventRecord(void* handle, void* stream) {
  if (add(stream, [] {})) return LOST;
  Event* event = static_cast<Event*>(handle);
  event->stream = stream_of(stream);
  return event->number = event->stream->queued, 0;
}
int cuStreamWaitEvent(void* stream, void* handle, unsigned) {
  const Event event = *static_cast<Event*>(handle);
  return event.stream ? add(stream, [=] { run_until(event.stream, event.number); }) : 0;
}
int cuEventSynchronize(void* handle) {
  LOCKED;
  const Event* event = static_cast<Event*>(handle);
  if (event->stream) run_until(event->stream, event->number);
  return is_lost ? LOST : 0;
}

// A cubin stands for the same text, compiled for the CPU.
int cuLibraryLoadData(void** out, const void*, void*, void*, unsigned, void*, void*, unsigned) {
  if (setting("CARD_IS_OLD", 0)) return 200;  // no code for this driver
  return *out = dlopen(getenv("CARD_KERNEL"), RTLD_NOW), *out ? 0 : 200;
}
int cuLibraryUnload(void*) { return 0; }
int cuLibraryGetKernel(void** out, void* library, const char* name) { return *out = dlsym(library, name), *out ? 0 : 500; }
int cuKernelGetFunction(void** out, void* kernel) { return *out = kernel, 0; }
int cuLaunchKernelEx(const LaunchConfig* config, void* kernel, void** parameters, void**) {
  return launch(config->stream, kernel, parameters);
}
int cuLaunchKernel(void* kernel, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void* stream,
                   void** parameters, void**) {
  return launch(stream, kernel, parameters);
}

}  // extern "C"
