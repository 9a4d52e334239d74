// SPDX-License-Identifier: MIT
// Pictures: a small writer of SVG, and what is drawn with it.
//
//      WORKLOAD-utilisation.svg, -fragmentation.svg, -extents.svg   over the volume written; a curve per engine and mode
//      WORKLOAD-latency.svg                                         percentiles of one allocation, logarithmic
//      WORKLOAD-ENGINE-MODE-map.svg                                 free space by address, 512 × 128 cells: dark = free
//
// In the map a shade is one path of horizontal strokes, so that a picture has thousands of numbers and not 65,536 rectangles.
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "bench/alloc_bench.h"
#include "util/attr.h"
#include "util/blk.h"
#include "util/size.h"

#define WIDTH 960.0
#define HEIGHT 460.0
#define LEFT 80.0 // of the plotting area
#define RIGHT 760.0
#define TOP 50.0
#define BOTTOM 400.0
#define SHADES 16

struct axis {
	double min, max; // of the values; for a logarithmic one, of their logarithms
	bool log10;
};

// ---- SVG ----

static FILE *svg_open(const char *dir, const char *name, double width, double height)
{
	char path[4096];
	FILE *f;

	if (snprintf(path, sizeof(path), "%s/%s.svg", dir, name) >= (int)sizeof(path)) {
		errno = ENAMETOOLONG;
		bench_die("%s", dir);
	}
	f = fopen(path, "we");
	if (f == NULL)
		bench_die("%s", path);
	fprintf(f,
	        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %g %g\" width=\"%g\" height=\"%g\" "
	        "font-family=\"sans-serif\" font-size=\"13\">\n<rect width=\"%g\" height=\"%g\" fill=\"#fff\"/>\n",
	        width, height, width, height, width, height);
	return f;
}

static void svg_close(FILE *f)
{
	fprintf(f, "</svg>\n");
	if (fclose(f) != 0)
		bench_die("writing a picture");
}

ATTR_PRINTF(5, 6) static void svg_text(FILE *f, double x, double y, const char *anchor, const char *fmt, ...)
{
	va_list args;

	fprintf(f, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">", x, y, anchor);
	va_start(args, fmt);
	vfprintf(f, fmt, args); // no character of the texts here means anything in SVG
	va_end(args);
	fprintf(f, "</text>\n");
}

static void svg_line(FILE *f, double x1, double y1, double x2, double y2, const char *colour)
{
	fprintf(f, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"%s\"/>\n", x1, y1, x2, y2, colour);
}

// ---- axes ----

static double x_of(const struct axis *axis, double v)
{
	return LEFT + (v - axis->min) / (axis->max - axis->min) * (RIGHT - LEFT);
}

static double y_of(const struct axis *axis, double v)
{
	if (axis->log10)
		v = log10(fmax(v, 1));
	return BOTTOM - (v - axis->min) / (axis->max - axis->min) * (BOTTOM - TOP);
}

// 1, 2 or 5 times a power of ten: four to ten of them in the axis.
static double tick_step(double range)
{
	double power = pow(10, floor(log10(range))), steps = range / power;

	return power * (steps >= 5 ? 1 : steps >= 2 ? 0.5 : 0.2);
}

static void include(struct axis *axis, double v)
{
	if (!isfinite(v))
		return;
	if (axis->log10)
		v = log10(fmax(v, 1));
	axis->min = fmin(axis->min, v);
	axis->max = fmax(axis->max, v);
}

static bool axis_round(struct axis *axis)
{
	double step;

	if (axis->min > axis->max)
		return false;
	if (axis->max - axis->min < 1e-9)
		axis->max = axis->min + fmax(fabs(axis->min) * 0.01, 0.01);
	step = axis->log10 ? 1 : tick_step(axis->max - axis->min);
	axis->min = floor(axis->min / step + 1e-9) * step;
	axis->max = ceil(axis->max / step - 1e-9) * step;
	return true;
}

static void draw_y_axis(FILE *f, const struct axis *axis)
{
	double step = axis->log10 ? 1 : tick_step(axis->max - axis->min);

	for (int i = 0; axis->min + i * step <= axis->max + step / 1e6; i++) {
		double v = axis->min + i * step;
		double y = BOTTOM - (v - axis->min) / (axis->max - axis->min) * (BOTTOM - TOP);

		svg_line(f, LEFT, y, RIGHT, y, "#ddd");
		if (fabs(v) < step / 1e6)
			v = 0;
		svg_text(f, LEFT - 8, y + 4, "end", "%.8g", axis->log10 ? pow(10, v) : v);
	}
}

static void draw_x_axis(FILE *f, const struct axis *axis)
{
	double step = tick_step(axis->max - axis->min);

	for (int i = 0; axis->min + i * step <= axis->max + step / 1e6; i++) {
		double x = x_of(axis, axis->min + i * step);

		svg_line(f, x, BOTTOM, x, BOTTOM + 5, "#444");
		svg_text(f, x, BOTTOM + 20, "middle", "%.6g", axis->min + i * step);
	}
}

static void draw_frame(FILE *f, const char *title, const char *x_label)
{
	svg_line(f, LEFT, BOTTOM, RIGHT, BOTTOM, "#444");
	svg_line(f, LEFT, TOP, LEFT, BOTTOM, "#444");
	svg_text(f, LEFT, TOP - 20, "start", "%s", title);
	svg_text(f, (LEFT + RIGHT) / 2, BOTTOM + 44, "middle", "%s", x_label);
}

// ---- curves ----

static const char *curve_colour(const struct result *r)
{
	static const char *const colours[] = { "#d62728", "#1f77b4", "#2ca02c", "#ff7f0e", "#9467bd",
		                               "#8c564b", "#e377c2", "#17becf", "#7f7f7f" };

	for (size_t i = 0; i < ARRAY_LEN(colours) - 1 && engines[i] != NULL; i++)
		if (engines[i] == r->plan.engine)
			return colours[i];
	return colours[ARRAY_LEN(colours) - 1];
}

// A curve is "x,y x,y ..." with gaps where a value is missing; contiguous mode is dashed.
static void draw_curve(FILE *f, const struct result *r, unsigned number, unsigned n_points, const double *x, const double *y)
{
	const char *dash = r->plan.contig ? " stroke-dasharray=\"7 4\"" : "";
	double key_y = TOP + 10 + 20 * number;
	bool pen_down = false;

	fprintf(f, "<path fill=\"none\" stroke=\"%s\" stroke-width=\"2\"%s d=\"", curve_colour(r), dash);
	for (unsigned i = 0; i < n_points; i++) {
		if (isfinite(y[i]))
			fprintf(f, "%c%.1f %.1f", pen_down ? 'L' : 'M', x[i], y[i]);
		pen_down = isfinite(y[i]);
	}
	fprintf(f, "M%.1f %.1fh24\"/>\n", RIGHT + 16, key_y - 4);
	svg_text(f, RIGHT + 48, key_y, "start", "%s%s", engine_name(r->plan.engine), r->plan.contig ? ", contiguous" : "");
}

// ---- over the volume written ----

struct history_plot {
	const char *name, *title;
	size_t offset; // of a double in struct moment
};

static const struct history_plot history_plots[] = {
	{ "utilisation", "utilisation when full, %", offsetof(struct moment, utilisation) },
	{ "fragmentation", "fragmentation of the free space (Ceph's score: 0 = one run, 1 = single blocks)",
	  offsetof(struct moment, score) },
	{ "extents", "extents per allocation", offsetof(struct moment, extents) },
};

static double moment_value(const struct moment *m, const struct history_plot *plot)
{
	double value;

	memcpy(&value, (const char *)m + plot->offset, sizeof(value));
	return value;
}

static void draw_history_curve(FILE *f, const struct result *r, unsigned number, const struct history_plot *plot,
                               const struct axis *xs, const struct axis *ys)
{
	double x[HISTORY_MAX], y[HISTORY_MAX];

	for (uint32_t i = 0; i < r->n_moments; i++) {
		x[i] = x_of(xs, r->moments[i].written);
		y[i] = y_of(ys, moment_value(&r->moments[i], plot));
	}
	draw_curve(f, r, number, r->n_moments, x, y);
}

static void plot_history(const char *dir, const struct result *results, unsigned n, enum workload workload,
                         const struct history_plot *plot)
{
	struct axis xs = { .min = 0, .max = 0 }, ys = { .min = INFINITY, .max = -INFINITY };
	char text[128];
	unsigned number = 0;
	FILE *f;

	for (unsigned i = 0; i < n; i++) {
		if (results[i].plan.workload != workload)
			continue;
		for (uint32_t k = 0; k < results[i].n_moments; k++) {
			include(&xs, results[i].moments[k].written);
			include(&ys, moment_value(&results[i].moments[k], plot));
		}
	}
	if (!axis_round(&ys) || !axis_round(&xs))
		return;
	snprintf(text, sizeof(text), "%s-%s", workload_name(workload), plot->name);
	f = svg_open(dir, text, WIDTH, HEIGHT);
	draw_y_axis(f, &ys);
	draw_x_axis(f, &xs);
	snprintf(text, sizeof(text), "%s: %s", workload_name(workload), plot->title);
	draw_frame(f, text, "volume written, in capacities");
	for (unsigned i = 0; i < n; i++)
		if (results[i].plan.workload == workload)
			draw_history_curve(f, &results[i], number++, plot, &xs, &ys);
	svg_close(f);
}

// ---- latency ----

#define N_PERCENTILES 6

static void percentiles_of(const struct result *r, double out[N_PERCENTILES])
{
	const double all[N_PERCENTILES] = { r->p50_ns, r->p90_ns, r->p99_ns, r->p999_ns, r->p9999_ns, r->max_ns };

	memcpy(out, all, sizeof(all));
}

static void plot_latency(const char *dir, const struct result *results, unsigned n, enum workload workload)
{
	static const char *const labels[N_PERCENTILES] = { "50%", "90%", "99%", "99.9%", "99.99%", "all" };
	const struct axis xs = { .min = -0.3, .max = N_PERCENTILES - 0.7 };
	struct axis ys = { .min = INFINITY, .max = -INFINITY, .log10 = true };
	double x[N_PERCENTILES], y[N_PERCENTILES];
	char text[128];
	unsigned number = 0;
	FILE *f;

	for (unsigned i = 0; i < n; i++) {
		percentiles_of(&results[i], y);
		for (unsigned k = 0; k < N_PERCENTILES && results[i].plan.workload == workload; k++)
			include(&ys, y[k]);
	}
	if (!axis_round(&ys))
		return;
	snprintf(text, sizeof(text), "%s-latency", workload_name(workload));
	f = svg_open(dir, text, WIDTH, HEIGHT);
	draw_y_axis(f, &ys);
	snprintf(text, sizeof(text), "%s: time of one allocation, ns", workload_name(workload));
	draw_frame(f, text, "share of the allocations that took no longer");
	for (unsigned k = 0; k < N_PERCENTILES; k++) {
		x[k] = x_of(&xs, k);
		svg_text(f, x[k], BOTTOM + 20, "middle", "%s", labels[k]);
	}
	for (unsigned i = 0; i < n; i++) {
		if (results[i].plan.workload != workload)
			continue;
		percentiles_of(&results[i], y);
		for (unsigned k = 0; k < N_PERCENTILES; k++)
			y[k] = y_of(&ys, y[k]);
		draw_curve(f, &results[i], number++, N_PERCENTILES, x, y);
	}
	svg_close(f);
}

// ---- the map ----

#define MAP_LEFT 20.0
#define MAP_TOP 60.0
#define MAP_SCALE 2.0 // pixels a cell

// White is used; any free space at all is visible.
static int shade_of(float free_share)
{
	return free_share <= 0 ? 0 : 1 + (int)fminf(free_share * (SHADES - 1), SHADES - 2);
}

static int shade_level(int shade) { return shade == 0 ? 255 : 225 - 225 * (shade - 1) / (SHADES - 2); }

static void draw_shade(FILE *f, const struct result *r, int shade)
{
	int level = shade_level(shade);

	fprintf(f, "<path stroke=\"#%02x%02x%02x\" d=\"", level, level * 4 / 5 + 51, level / 2 + 127);
	for (unsigned row = 0; row < MAP_ROWS; row++) {
		const float *cells = &r->map[row * MAP_COLUMNS];

		for (unsigned from = 0, to; from < MAP_COLUMNS; from = to) {
			for (to = from + 1; to < MAP_COLUMNS && shade_of(cells[to]) == shade_of(cells[from]);)
				to++;
			if (shade_of(cells[from]) == shade)
				fprintf(f, "M%u %u.5h%u", from, row, to - from);
		}
	}
	fprintf(f, "\"/>\n");
}

static void draw_map_key(FILE *f, double y)
{
	svg_text(f, MAP_LEFT, y + 12, "start", "free:  0%%");
	for (int shade = 0; shade < SHADES; shade++) {
		int level = shade_level(shade);

		fprintf(f, "<rect x=\"%.1f\" y=\"%.1f\" width=\"18\" height=\"16\" stroke=\"#999\" fill=\"#%02x%02x%02x\"/>\n",
		        MAP_LEFT + 70 + 18 * shade, y, level, level * 4 / 5 + 51, level / 2 + 127);
	}
	svg_text(f, MAP_LEFT + 76 + 18 * SHADES, y + 12, "start", "100%%");
}

static void plot_map(const char *dir, const struct result *r)
{
	const char *mode = r->plan.contig ? "contig" : "split";
	double width = 2 * MAP_LEFT + MAP_SCALE * MAP_COLUMNS, height = MAP_TOP + MAP_SCALE * MAP_ROWS + 50;
	char name[128], cell[SIZE_TEXT_LEN], size[SIZE_TEXT_LEN];
	FILE *f;

	snprintf(name, sizeof(name), "%s-%s-%s-map", workload_name(r->plan.workload), engine_name(r->plan.engine), mode);
	f = svg_open(dir, name, width, height);
	svg_text(f, MAP_LEFT, 24, "start", "%s, %s, %s: free space of %s by address, row by row, %s in a cell",
	         workload_name(r->plan.workload), engine_name(r->plan.engine), mode,
	         size_format(blk_to_bytes(r->plan.n_blks), size), size_format(blk_to_bytes(r->cell_blk), cell));
	svg_text(f, MAP_LEFT, 44, "start", "%.0f free runs, %.0f KiB on average, %.1f%% of it in runs of 1 MiB and more",
	         r->free_extents, r->free_mean_kib, r->free_share_1m);
	fprintf(f, "<rect x=\"%g\" y=\"%g\" width=\"%g\" height=\"%g\" fill=\"#fff\" stroke=\"#999\"/>\n", MAP_LEFT, MAP_TOP,
	        MAP_SCALE * MAP_COLUMNS, MAP_SCALE * MAP_ROWS);
	fprintf(f, "<g transform=\"translate(%g %g) scale(%g)\" fill=\"none\" stroke-width=\"1\" shape-rendering=\"crispEdges\">\n",
	        MAP_LEFT, MAP_TOP, MAP_SCALE);
	for (int shade = 1; shade < SHADES; shade++)
		draw_shade(f, r, shade);
	fprintf(f, "</g>\n");
	draw_map_key(f, MAP_TOP + MAP_SCALE * MAP_ROWS + 16);
	svg_close(f);
}

void plot_results(const char *dir, const struct result *results, unsigned n)
{
	for (enum workload w = 0; w < N_WORKLOADS; w++) {
		for (size_t k = 0; k < ARRAY_LEN(history_plots) && w != WORK_W2 && w != WORK_W4 && w != WORK_EDGE && w != WORK_SPARSE; k++)
			plot_history(dir, results, n, w, &history_plots[k]);
		plot_latency(dir, results, n, w);
	}
	for (unsigned i = 0; i < n; i++)
		if (results[i].cell_blk != 0)
			plot_map(dir, &results[i]);
}
