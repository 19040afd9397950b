// A libcuda.so.1 without a GPU: the entries of NVIDIA's driver that cuda-core calls, and torch's idea of a device on top
// of them. Each thread has a current context, or none, as with the real one; a launch without a context, on a stream of
// another device or of no threads is refused; what is launched is handed to a function of Python.
#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <cstring>

extern "C" {

enum { OK = 0, INVALID_VALUE = 1, NOT_INITIALISED = 3, INVALID_DEVICE = 101, INVALID_IMAGE = 200, INVALID_CONTEXT = 201,
       INVALID_HANDLE = 400, NOT_FOUND = 500, NOT_SUPPORTED = 801 };
enum { DEVICES = 2, MAJOR = 75, MINOR = 76, WARP_SIZE = 10 };

using Result = int;
struct Context { int device, users; };
struct Kernel { char name[64]; };
struct Launch { unsigned grid[3], block[3], shared; void* stream; void* attributes; unsigned count; };
using Hook = int (*)(const char* name, const unsigned* grid, const unsigned* block, void** arguments, int device);

static int initialised, major = 9, minor, refuses_code;
static Context contexts[DEVICES] = {{0, 0}, {1, 0}};
static thread_local Context* current;
static Hook hook;

// For Python and for torch's guard.

void stand_in_configure(Hook function, int capability_major, int capability_minor) {
  hook = function;
  major = capability_major;
  minor = capability_minor;
}
void stand_in_refuse_code(int refuse) { refuses_code = refuse; }
// What the run-time library calls the current device: 0 in a thread that has no context.
int stand_in_current_device(void) { return current ? current->device : 0; }
// Like cudaSetDevice in c10: nothing is done, and no context made, where the device seems current already.
void stand_in_set_device(int device) {
  if (device >= 0 && device != stand_in_current_device()) current = &contexts[device];
}
// The stream `number` of a device, as torch would hand it out; 0 is the default stream of every device.
uint64_t stand_in_stream(int device, int number) { return number ? uint64_t(256 * (device + 1) + number) : 0; }

// The driver.

Result cuInit(unsigned flags) { return initialised = 1, OK; }
Result cuDriverGetVersion(int* version) { return *version = 13050, OK; }
Result cuDeviceGetCount(int* count) { return *count = DEVICES, initialised ? OK : NOT_INITIALISED; }
Result cuDeviceGet(int* device, int ordinal) {
  if (!initialised) return NOT_INITIALISED;
  *device = ordinal;
  return ordinal < DEVICES ? OK : INVALID_DEVICE;
}
Result cuDeviceGetName(char* name, int size, int device) { return std::snprintf(name, size, "Stand-in %d", device), OK; }
Result cuDeviceGetAttribute(int* value, int attribute, int device) {
  *value = attribute == MAJOR ? major : attribute == MINOR ? minor : attribute == WARP_SIZE ? 32 : 0;
  return OK;
}
Result cuDevicePrimaryCtxRetain(void** context, int device) {
  ++contexts[device].users;
  return *context = &contexts[device], OK;
}
Result cuDevicePrimaryCtxRelease_v2(int device) { return --contexts[device].users, OK; }
Result cuDevicePrimaryCtxRelease(int device) { return cuDevicePrimaryCtxRelease_v2(device); }
Result cuCtxSetCurrent(void* context) { return current = static_cast<Context*>(context), OK; }
Result cuCtxGetCurrent(void** context) { return *context = current, OK; }
Result cuCtxPushCurrent_v2(void* context) { return current = static_cast<Context*>(context), OK; }
Result cuCtxPushCurrent(void* context) { return current = static_cast<Context*>(context), OK; }
Result cuCtxPopCurrent_v2(void** context) { return *context = current, current = nullptr, OK; }
Result cuCtxPopCurrent(void** context) { return cuCtxPopCurrent_v2(context); }
Result cuCtxGetDevice(int* device) {
  if (!current) return INVALID_CONTEXT;
  return *device = current->device, OK;
}
Result cuStreamGetCtx(void* stream, void** context) {
  const uint64_t device = reinterpret_cast<uint64_t>(stream) / 256;
  *context = stream ? &contexts[device - 1] : current;
  return *context ? OK : INVALID_CONTEXT;
}
Result cuGetErrorName(Result error, const char** text) { return *text = "CUDA_ERROR_STAND_IN", OK; }
Result cuGetErrorString(Result error, const char** text) { return *text = "the stand-in driver refuses", OK; }

Result cuLibraryLoadData(void** library, const void* code, void* a, void* b, unsigned n, void* c, void* d, unsigned m) {
  const char* text = static_cast<const char*>(code);
  const bool machine_code = !std::memcmp(text, "\x7f" "ELF", 4), ptx = std::strstr(text, ".version");
  if (refuses_code || !(machine_code || ptx)) return INVALID_IMAGE;
  return *library = const_cast<void*>(code), OK;
}
Result cuLibraryLoadFromFile(void** library, const char* file, void* a, void* b, unsigned n, void* c, void* d,
                             unsigned m) {
  return NOT_SUPPORTED;
}
Result cuLibraryUnload(void* library) { return OK; }
Result cuLibraryGetKernel(void** kernel, void* library, const char* name) {
  Kernel* made = new Kernel;  // for as long as the process lives
  std::snprintf(made->name, sizeof made->name, "%s", name);
  return *kernel = made, OK;
}
Result cuKernelGetLibrary(void** library, void* kernel) { return *library = nullptr, OK; }
Result cuKernelGetFunction(void** function, void* kernel) { return *function = kernel, OK; }

Result cuLaunchKernelEx(const Launch* launch, void* function, void** arguments, void** extra) {
  void* of_stream;
  if (!current || cuStreamGetCtx(launch->stream, &of_stream) != OK) return INVALID_CONTEXT;
  if (of_stream != current) return INVALID_HANDLE;
  for (int k = 0; k < 3; ++k)
    if (!launch->grid[k] || !launch->block[k]) return INVALID_VALUE;
  return hook(static_cast<Kernel*>(function)->name, launch->grid, launch->block, arguments, current->device);
}
Result cuLaunchKernel(void* function, unsigned a, unsigned b, unsigned c, unsigned d, unsigned e, unsigned f,
                      unsigned shared, void* stream, void** arguments, void** extra) {
  return NOT_SUPPORTED;
}

// NVRTC 13.5 asks for a table of its own when it finds a driver, and does without where there is none.
Result cuGetExportTable(const void** table, const void* id) { return NOT_FOUND; }

Result cuGetProcAddress_v2(const char* name, void** function, int version, uint64_t flags, int* status) {
  Dl_info here;
  dladdr(reinterpret_cast<void*>(cuGetProcAddress_v2), &here);
  void* self = dlopen(here.dli_fname, RTLD_NOW | RTLD_NOLOAD);
  *function = dlsym(self, std::strcmp(name, "cuGetProcAddress") ? name : "cuGetProcAddress_v2");
  if (status) *status = *function ? 0 : 1;
  return OK;
}
Result cuGetProcAddress(const char* name, void** function, int version, uint64_t flags) {
  return cuGetProcAddress_v2(name, function, version, flags, nullptr);
}

}  // extern "C"
