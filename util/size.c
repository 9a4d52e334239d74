// SPDX-License-Identifier: MIT
#include "util/size.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

int size_parse(const char *text, uint64_t *bytes)
{
	static const char suffix[] = "KMGTP";
	const char *found;
	unsigned shift = 0;
	unsigned long long n;
	char *end;

	if (!isdigit((unsigned char)text[0]))
		return -EINVAL;
	errno = 0;
	n = strtoull(text, &end, 10);
	if (errno != 0)
		return -ERANGE;
	if (*end != '\0' && (found = strchr(suffix, toupper((unsigned char)*end))) != NULL) {
		shift = 10 * (unsigned)(found - suffix + 1);
		end++;
		if (strcasecmp(end, "iB") == 0 || strcasecmp(end, "B") == 0)
			end += strlen(end);
	}
	if (*end != '\0')
		return -EINVAL;
	if (n > (UINT64_MAX >> 1) >> shift)
		return -ERANGE;
	*bytes = (uint64_t)n << shift;
	return 0;
}

const char *size_format(uint64_t bytes, char buf[SIZE_TEXT_LEN])
{
	static const char *const unit[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
	unsigned u = 0;
	double v = (double)bytes;

	while (v >= 1024 && u + 1 < ARRAY_LEN(unit)) {
		v /= 1024;
		u++;
	}
	if (v == (double)(uint64_t)v)
		snprintf(buf, SIZE_TEXT_LEN, "%llu %s", (unsigned long long)v, unit[u]);
	else
		snprintf(buf, SIZE_TEXT_LEN, "%.1f %s", v, unit[u]);
	return buf;
}
