// Splatting on the CPU: the definition of model/render/splatting.py, forward and backward, with the same bits for any number of threads.
//
// What is summed at a target is summed over the source pixels in their order, by one thread. Threads share what is independent of each
// other: pixels, targets, or blocks of channels. Nothing here allocates memory for pixels, and nothing needs Python's or torch's headers,
// so that it compiles in two seconds and outlives both.
//
// Arrays are contiguous: features [batch, channels, pixels], flow [batch, 2, pixels], metric [batch, pixels], at and weight
// [batch, 4, pixels], total [batch, pixels + 1]. Place `pixels` of a target array takes what does not land in the picture.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <system_error>
#include <thread>
#include <vector>

// Where the processor has wider registers, use them. Multiplication and addition stay apart, so that both kinds give the same bits.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define WIDER __attribute__((target_clones("avx2", "default"), flatten))
#else
#define WIDER
#endif

namespace {

enum Mode : int64_t { SUM, AVERAGE, LINEAR, SOFTMAX };

constexpr int64_t CHANNELS = 8;  // of a block: what a target's cache line and two vector registers hold
constexpr int64_t TILE = 64;     // pixels whose channels are turned together, within the first cache
constexpr int64_t PIECE = 8192;  // pixels that are worth a thread

// Calls run(begin, end) on neighbouring parts of 0 .. count, none much smaller than `least`, each in a thread.
template <class Run>
void parallel(int64_t count, int64_t least, int64_t threads, Run run) {
    const int64_t parts = std::max<int64_t>(1, std::min(threads, count / least));
    std::vector<std::thread> others;
    for (int64_t part = 1; part < parts; ++part) {
        const int64_t begin = count * part / parts, end = count * (part + 1) / parts;
        try {
            others.emplace_back(run, begin, end);
        } catch (const std::system_error&) {  // no more threads to be had
            run(begin, end);
        }
    }
    run(0, count / parts);
    for (auto& other : others) other.join();
}

// One pixel's channels of a block, computed together.
template <class T>
struct Wide {
    typedef T Row __attribute__((vector_size(CHANNELS * sizeof(T)), may_alias));
};
template <class T>
using Row = typename Wide<T>::Row;

// Where the pixel at (x, y) lands: bilinear weights of up to four targets.
template <class T>
struct Corners {
    int32_t at[4];
    T share[4], across[4], down[4];  // the weight, and its derivatives by x and y

    Corners(T x, T y, int64_t width, int64_t height, T least) {
        const bool inside = x > -1 && x < T(width) && y > -1 && y < T(height);  // false of NaN
        const int32_t column = inside ? int32_t(x) - (x < 0) : -2, row = inside ? int32_t(y) - (y < 0) : -2;
        const T right = x - T(column), below = y - T(row);
        for (int k = 0; k < 4; ++k) {
            const int32_t i = column + k % 2, j = row + k / 2;
            const T u = k % 2 ? right : 1 - right, v = k / 2 ? below : 1 - below;
            const bool lands = i >= 0 && i < width && j >= 0 && j < height && u * v >= least;
            at[k] = int32_t(lands ? j * width + i : width * height);
            share[k] = lands ? u * v : 0;
            across[k] = !lands ? 0 : k % 2 ? v : -v;
            down[k] = !lands ? 0 : k / 2 ? u : -u;
        }
    }
};

// One sample's targets and weights.
template <class T>
void plan_one(int64_t height, int64_t width, int64_t mode, T least, int64_t threads, const T* flow, const T* metric, int32_t* at, T* weight,
              T* total, bool* hole) {
    const int64_t pixels = height * width;
    parallel(pixels, PIECE, threads, [=](int64_t begin, int64_t end) {
        for (int64_t p = begin; p < end; ++p) {
            const Corners<T> corners(T(p % width) + flow[p], T(p / width) + flow[pixels + p], width, height, least);
            for (int k = 0; k < 4; ++k) {
                at[k * pixels + p] = corners.at[k];
                weight[k * pixels + p] = corners.share[k];
            }
        }
    });
    if (mode == SOFTMAX) {  // the greatest metric at each target
        std::fill_n(total, pixels + 1, std::numeric_limits<T>::lowest());
        for (int64_t p = 0; p < pixels; ++p)
            for (int k = 0; k < 4; ++k) total[at[k * pixels + p]] = std::max(total[at[k * pixels + p]], metric[p]);
    }
    if (mode == LINEAR || mode == SOFTMAX)
        parallel(pixels, PIECE, threads, [=](int64_t begin, int64_t end) {
            for (int64_t p = begin; p < end; ++p)
                for (int64_t i = p; i < 4 * pixels; i += pixels)
                    if (at[i] != pixels) weight[i] *= mode == LINEAR ? metric[p] : std::exp(metric[p] - total[at[i]]);
        });
    std::fill_n(total, pixels + 1, T(0));
    for (int64_t p = 0; p < pixels; ++p)
        for (int64_t i = p; i < 4 * pixels; i += pixels) total[at[i]] += weight[i];
    parallel(pixels, PIECE, threads, [=](int64_t begin, int64_t end) {
        for (int64_t q = begin; q < end; ++q) hole[q] = total[q] == 0;
    });
    for (int64_t q = 0; q <= pixels; ++q)
        if (total[q] == 0) total[q] = std::numeric_limits<T>::infinity();  // a share of nothing is 0, and so is its gradient
    if (mode != SUM)
        parallel(pixels, PIECE, threads, [=](int64_t begin, int64_t end) {
            for (int64_t p = begin; p < end; ++p)
                for (int64_t i = p; i < 4 * pixels; i += pixels) weight[i] /= total[at[i]];
        });
}

// Gradients by flow and metric from those by the weights of one sample. `mean` is room for pixels + 1.
template <class T>
void plan_backward_one(int64_t height, int64_t width, int64_t mode, T least, int64_t threads, const T* flow, const T* metric, const int32_t* at,
                       const T* weight, const T* total, T* mean, const T* grad_weight, T* grad_flow, T* grad_metric) {
    const int64_t pixels = height * width;
    std::fill_n(mean, pixels + 1, T(0));
    if (mode != SUM)
        for (int64_t p = 0; p < pixels; ++p)
            for (int64_t i = p; i < 4 * pixels; i += pixels) mean[at[i]] += weight[i] * grad_weight[i];
    parallel(pixels, PIECE, threads, [=](int64_t begin, int64_t end) {
        for (int64_t p = begin; p < end; ++p) {
            const Corners<T> corners(T(p % width) + flow[p], T(p / width) + flow[pixels + p], width, height, least);
            T x = 0, y = 0, z = 0;
            for (int k = 0; k < 4; ++k) {
                const int64_t i = k * pixels + p;
                if (at[i] == pixels) continue;
                const T by_raw = grad_weight[i] - mean[at[i]];
                const T by_share = by_raw * (mode == LINEAR ? metric[p] / total[at[i]] : weight[i] / corners.share[k]);
                x += by_share * corners.across[k];
                y += by_share * corners.down[k];
                z += by_raw * (mode == LINEAR ? corners.share[k] / total[at[i]] : weight[i]);
            }
            grad_flow[p] = x;
            grad_flow[pixels + p] = y;
            if (grad_metric) grad_metric[p] = z;
        }
    });
}

// tile[pixel][channel] of a block's channels, of which `live` exist.
template <class T>
void turn(Row<T>* tile, const T* plane, int64_t pixels, int64_t live, int64_t n) {
    for (int64_t c = 0; c < CHANNELS; ++c)
        for (int64_t i = 0; i < n; ++i) tile[i][c] = c < live ? plane[c * pixels + i] : 0;
}

template <class T>
void turn_back(T* plane, const Row<T>* tile, int64_t pixels, int64_t live, int64_t n) {
    int64_t i = 0;
    if (live == CHANNELS)
        for (; i + 4 <= n; i += 4)
            for (int64_t c = 0; c < CHANNELS; ++c) {
                const T four[4] = {tile[i][c], tile[i + 1][c], tile[i + 2][c], tile[i + 3][c]};
                std::copy_n(four, 4, plane + c * pixels + i);
            }
    for (; i < n; ++i)
        for (int64_t c = 0; c < live; ++c) plane[c * pixels + i] = tile[i][c];
}

// One block of channels of one sample. `sums` is room for pixels + 1 rows.
template <class T>
WIDER void scatter_block(int64_t pixels, int64_t live, const T* features, const int32_t* at, const T* weight, Row<T>* sums, T* out) {
    Row<T> tile[TILE];
    std::fill_n(sums, pixels + 1, Row<T>{});
    for (int64_t begin = 0; begin < pixels; begin += TILE) {
        const int64_t n = std::min(TILE, pixels - begin);
        turn(tile, features + begin, pixels, live, n);
        for (int64_t i = 0; i < n; ++i)
            for (int64_t j = begin + i; j < 4 * pixels; j += pixels) sums[at[j]] += weight[j] * tile[i];
    }
    for (int64_t begin = 0; begin < pixels; begin += TILE) turn_back(out + begin, sums + begin, pixels, live, std::min(TILE, pixels - begin));
}

// Gradients by features and weights of one sample, for pixels begin .. end. `turned` is grad_out as [block, pixels + 1, CHANNELS].
template <class T>
WIDER void gather_pixels(int64_t channels, int64_t pixels, int64_t begin, int64_t end, const T* features, const int32_t* at, const T* weight,
                   const Row<T>* turned, T* grad_features, T* grad_weight) {
    Row<T> tile[TILE], back[TILE], dots[TILE][4];
    for (; begin < end; begin += TILE) {
        const int64_t n = std::min(TILE, end - begin);
        std::fill_n(dots[0], TILE * 4, Row<T>{});
        for (int64_t first = 0; first < channels; first += CHANNELS) {
            const Row<T>* block = turned + first / CHANNELS * (pixels + 1);
            const int64_t live = std::min(CHANNELS, channels - first);
            turn(tile, features + first * pixels + begin, pixels, live, n);
            for (int64_t i = 0; i < n; ++i) {
                Row<T> sum = {};
                for (int k = 0; k < 4; ++k) {
                    const int64_t j = k * pixels + begin + i;
                    const Row<T> grad = block[at[j]];
                    sum += weight[j] * grad;
                    dots[i][k] += tile[i] * grad;
                }
                back[i] = sum;
            }
            turn_back(grad_features + first * pixels + begin, back, pixels, live, n);
        }
        for (int64_t i = 0; i < n; ++i)
            for (int k = 0; k < 4; ++k) {
                const Row<T> dot = dots[i][k];
                grad_weight[k * pixels + begin + i] = ((dot[0] + dot[4]) + (dot[2] + dot[6])) + ((dot[1] + dot[5]) + (dot[3] + dot[7]));
            }
    }
}

template <class T>
void plan(int64_t batch, int64_t height, int64_t width, int64_t mode, double least, int64_t threads, const T* flow, const T* metric, int32_t* at,
          T* weight, T* total, bool* hole) {
    const int64_t pixels = height * width;
    for (int64_t b = 0; b < batch; ++b)
        plan_one(height, width, mode, T(least), threads, flow + 2 * b * pixels, metric ? metric + b * pixels : nullptr, at + 4 * b * pixels,
                 weight + 4 * b * pixels, total + b * (pixels + 1), hole + b * pixels);
}

template <class T>
void plan_backward(int64_t batch, int64_t height, int64_t width, int64_t mode, double least, int64_t threads, const T* flow, const T* metric,
                   const int32_t* at, const T* weight, const T* total, T* mean, const T* grad_weight, T* grad_flow, T* grad_metric) {
    const int64_t pixels = height * width;
    for (int64_t b = 0; b < batch; ++b)
        plan_backward_one(height, width, mode, T(least), threads, flow + 2 * b * pixels, metric ? metric + b * pixels : nullptr,
                          at + 4 * b * pixels, weight + 4 * b * pixels, total + b * (pixels + 1), mean, grad_weight + 4 * b * pixels,
                          grad_flow + 2 * b * pixels, grad_metric ? grad_metric + b * pixels : nullptr);
}

// `sums` is room for as many blocks as there are threads.
template <class T>
void scatter(int64_t batch, int64_t channels, int64_t pixels, int64_t threads, const T* features, const int32_t* at, const T* weight, T* sums,
             T* out) {
    const int64_t blocks = (channels + CHANNELS - 1) / CHANNELS, count = batch * blocks;
    const int64_t workers = std::max<int64_t>(1, std::min(threads, count));
    parallel(workers, 1, workers, [=](int64_t worker, int64_t) {
        Row<T>* room = reinterpret_cast<Row<T>*>(sums) + worker * (pixels + 1);
        for (int64_t task = worker; task < count; task += workers) {
            const int64_t b = task / blocks, first = task % blocks * CHANNELS, plane = (b * channels + first) * pixels;
            scatter_block(pixels, std::min(CHANNELS, channels - first), features + plane, at + 4 * b * pixels, weight + 4 * b * pixels, room,
                          out + plane);
        }
    });
}

// `turned` is room for all blocks of one sample.
template <class T>
void gather(int64_t batch, int64_t channels, int64_t pixels, int64_t threads, const T* features, const int32_t* at, const T* weight,
            const T* grad_out, T* turned, T* grad_features, T* grad_weight) {
    const int64_t blocks = (channels + CHANNELS - 1) / CHANNELS;
    Row<T>* rows = reinterpret_cast<Row<T>*>(turned);
    for (int64_t b = 0; b < batch; ++b) {
        const int64_t planes = b * channels * pixels, plan = 4 * b * pixels;
        parallel(blocks, 1, threads, [=](int64_t from, int64_t to) {
            for (int64_t block = from; block < to; ++block) {
                const int64_t first = block * CHANNELS, live = std::min(CHANNELS, channels - first);
                Row<T>* room = rows + block * (pixels + 1);
                for (int64_t p = 0; p < pixels; p += TILE)
                    turn(room + p, grad_out + planes + first * pixels + p, pixels, live, std::min(TILE, pixels - p));
                room[pixels] = Row<T>{};
            }
        });
        parallel(pixels, PIECE / 8, threads, [=](int64_t begin, int64_t end) {
            gather_pixels(channels, pixels, begin, end, features + planes, at + plan, weight + plan, rows, grad_features + planes, grad_weight + plan);
        });
    }
}

// A target's three colours and its weight, added together.
typedef float Four __attribute__((vector_size(16), may_alias));

// Where in 0 .. count - 1 a place outside is seen in a mirror at the border.
int64_t mirrored(int64_t at, int64_t count) {
    const int64_t since = ((at % (2 * count)) + 2 * count) % (2 * count);
    return since < count ? since : 2 * count - 1 - since;
}

// What is seen of a picture of colours where a pixel has landed, by the corners that lie in it.
template <class T>
Four seen(const T* picture, const Corners<T>& corners, int64_t pixels) {
    Four sum = {};
    for (int k = 0; k < 4; ++k)
        if (const T* colour = picture + 3 * corners.at[k]; corners.at[k] != pixels)
            sum += corners.share[k] * Four{colour[0], colour[1], colour[2], 1};
    return sum[3] > 0 ? sum / sum[3] : sum;
}

// A picture [height, width, 3] that goes on, mirrored, for `margin` pixels beyond its borders, where flow and front are those of the border.
// `front` is exp(metric) up to a factor. To what has arrived, `given_back` times what splatting has smoothed away of it is added. `sums` is room
// for a Four of each pixel, `columns` for two numbers of each in a row with its margins.
template <class T>
WIDER void paint(int64_t height, int64_t width, int64_t margin, double least, double given_back, const uint8_t* photo, const T* flow,
                 const T* front, int32_t* columns, T* room, T* out, bool* hole) {
    const int64_t pixels = height * width, reach = width + 2 * margin;
    Four* sums = reinterpret_cast<Four*>(room);
    for (int64_t i = 0; i < reach; ++i) {
        columns[i] = int32_t(mirrored(i - margin, width));
        columns[reach + i] = int32_t(std::clamp<int64_t>(i - margin, 0, width - 1));
    }
    for (int pass = 0; pass < (given_back > 0 ? 2 : 1); ++pass) {
        std::fill_n(sums, pixels + 1, Four{});
        for (int64_t y = -margin; y < height + margin; ++y) {
            const uint8_t* colours = photo + 3 * width * mirrored(y, height);
            const int64_t row = width * std::clamp<int64_t>(y, 0, height - 1);
            for (int64_t i = 0; i < reach; ++i) {
                const uint8_t* colour = colours + 3 * columns[i];
                const int64_t p = row + columns[reach + i];
                const Corners<T> corners(T(i - margin) + flow[p], T(y) + flow[pixels + p], width, height, T(least));
                Four shown = {T(colour[0]), T(colour[1]), T(colour[2]), 1};
                if (pass) shown = shown - seen(out, corners, pixels) + Four{0, 0, 0, 1};
                shown *= front[p];
                for (int k = 0; k < 4; ++k) sums[corners.at[k]] += corners.share[k] * shown;
            }
        }
        for (int64_t q = 0; q < pixels; ++q) {
            const Four sum = sums[q];
            hole[q] = sum[3] == 0;
            for (int c = 0; c < 3; ++c) {
                const T mean = hole[q] ? 0 : sum[c] / sum[3];
                out[3 * q + c] = pass ? out[3 * q + c] + T(given_back) * mean : mean;
            }
        }
    }
}

}  // namespace

// Found by name; pointers, so that the signatures stand in one place.
#define EXPORT(name, T) extern "C" decltype(&name<T>) const name##_##T = name<T>;
EXPORT(plan, float)
EXPORT(plan, double)
EXPORT(plan_backward, float)
EXPORT(plan_backward, double)
EXPORT(scatter, float)
EXPORT(scatter, double)
EXPORT(gather, float)
EXPORT(gather, double)
EXPORT(paint, float)
