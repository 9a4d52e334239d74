// SPDX-License-Identifier: MIT
#include "util/errmsg.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void errmsg_set(struct errmsg *why, const char *fmt, ...)
{
	va_list ap;

	if (why == NULL)
		return;
	va_start(ap, fmt);
	vsnprintf(why->text, sizeof(why->text), fmt, ap);
	va_end(ap);
}

void errmsg_prefix(struct errmsg *why, const char *fmt, ...)
{
	struct errmsg old;
	va_list ap;
	size_t used;

	if (why == NULL)
		return;
	old = *why;
	va_start(ap, fmt);
	vsnprintf(why->text, sizeof(why->text), fmt, ap);
	va_end(ap);
	used = strlen(why->text);
	snprintf(why->text + used, sizeof(why->text) - used, ": %s", old.text);
}
