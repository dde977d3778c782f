// What a lane of a warp is on a device: a thread. Numbers of a lane are plain numbers.
#define DEVICE __device__ __forceinline__
#define TABLE __device__ const
#define PARAMETERS __constant__

typedef real lane_real;
typedef int lane_int;
typedef double lane_double;
typedef bool lane_truth;
typedef const real* lane_pointer;

#define ALL_LANES 0xffffffffu

DEVICE int lane_number() { return threadIdx.x & 31; }
DEVICE real spread(real x) { return x; }
DEVICE real factor(bool truth) { return truth ? real(1) : real(0); }
DEVICE int as_integer(bool truth) { return truth; }
DEVICE bool any(bool truth) { return __any_sync(ALL_LANES, truth); }

DEVICE float absolute(float x) { return fabsf(x); }
DEVICE double absolute(double x) { return fabs(x); }
DEVICE float square_root(float x) { return sqrtf(x); }
DEVICE double square_root(double x) { return sqrt(x); }
DEVICE float copy_sign(float size, float sign) { return copysignf(size, sign); }
DEVICE double copy_sign(double size, double sign) { return copysign(size, sign); }
DEVICE float multiply_add(float x, float y, float z) { return __fmaf_rn(x, y, z); }
DEVICE double multiply_add(double x, double y, double z) { return __fma_rn(x, y, z); }
// One instruction, which a comparison and a choice are not; what is not a number stays so.
DEVICE float minimum(float x, float bound) {
  float out;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(out) : "f"(x), "f"(bound));
  return out;
}
DEVICE double minimum(double x, double bound) { return bound < x ? bound : x; }
DEVICE real where_negative(real x, real negative, real other) { return x < real(0) ? negative : other; }
DEVICE real where_positive(real x, real positive, real other) { return x > real(0) ? positive : other; }
DEVICE float nearest(float x) { return rintf(x); }
DEVICE double nearest(double x) { return rint(x); }
DEVICE float power_of_two(float n) { return __int_as_float((int(n) + 127) << 23); }
DEVICE double power_of_two(double n) { return __longlong_as_double((long long)(int(n) + 1023) << 52); }
DEVICE lane_double widen(real x) { return x; }
DEVICE lane_real narrow(lane_double x) { return real(x); }

// Memory: a pointer of each lane, and offsets from it that all lanes share.
DEVICE lane_pointer point(const real* base, int offset) { return base + offset; }
DEVICE lane_pointer advance(lane_pointer pointer, int count) { return pointer + count; }
DEVICE real read(lane_pointer pointer, int offset) { return pointer[offset]; }
DEVICE int read_integer(const int* base, int offset) { return base[offset]; }
DEVICE double read_double(const double* base, int offset) { return base[offset]; }
DEVICE void write_where(bool truth, real* base, int offset, real value) { if (truth) base[offset] = value; }
DEVICE void set_where(bool truth, double* base, int offset, double value) { if (truth) base[offset] = value; }
DEVICE void add_where(bool truth, double* base, int offset, double value) { if (truth) base[offset] += value; }

// The statistics of a position lie side by side: two of them are one load.
DEVICE void read_statistics(const float* pointer, int pixel, float (&out)[2]) {
  const float2 found = reinterpret_cast<const float2*>(pointer)[pixel];
  out[0] = found.x, out[1] = found.y;
}
DEVICE void read_statistics(const double* pointer, int pixel, double (&out)[2]) {
  const double2 found = reinterpret_cast<const double2*>(pointer)[pixel];
  out[0] = found.x, out[1] = found.y;
}
template <int COUNT>
DEVICE void read_statistics(const real* pointer, int pixel, real (&out)[COUNT]) {
  #pragma unroll
  for (int k = 0; k < COUNT; ++k) out[k] = pointer[pixel * COUNT + k];
}

// Lanes of a warp, in segments of a power of two.
template <int SEGMENT> DEVICE real from_left(real value, int distance) {
  return __shfl_up_sync(ALL_LANES, value, distance, SEGMENT);
}
template <int SEGMENT> DEVICE real from_right(real value, int distance) {
  return __shfl_down_sync(ALL_LANES, value, distance, SEGMENT);
}
template <int SEGMENT> DEVICE real from_column(real value, int column) {
  return __shfl_sync(ALL_LANES, value, column, SEGMENT);
}
template <int SEGMENT> DEVICE double sum_lanes(double value) {
  #pragma unroll
  for (int step = SEGMENT / 2; step; step /= 2) value += __shfl_down_sync(ALL_LANES, value, step, SEGMENT);
  return value;
}

// A kernel is made of phases; all warps end one before the next begins.
#define KERNEL extern "C" __global__ void __launch_bounds__(32 * WARPS) evaluate
#define SHARED __shared__
#define BATCHES(batch, count) for (int batch = blockIdx.x; batch < (count); batch += gridDim.x)
#define PHASE(call) { const int warp = threadIdx.x >> 5; call; } __syncthreads();
#define BLOCK int(blockIdx.x)
