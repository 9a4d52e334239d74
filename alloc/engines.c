// SPDX-License-Identifier: MIT
// The list of engines. A new one is a file of its own and a line here.
#include <string.h>

#include "alloc/engine.h"

const struct engine_ops *const engines[] = {
	&engine_hybrid, &engine_df, &engine_cf, &engine_ndf, &engine_avl, &engine_stupid, &engine_bitmap, NULL,
};

const struct engine_ops *engine_by_name(const char *name)
{
	for (unsigned i = 0; engines[i] != NULL; i++)
		if (strcmp(engines[i]->name, name) == 0)
			return engines[i];
	return NULL;
}
