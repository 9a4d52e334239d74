# SPDX-License-Identifier: MIT
# Included by every folder's Makefile.am: one set of flags for the whole tree.
AM_CPPFLAGS = -include $(top_builddir)/config.h -I$(top_srcdir) \
	$(FUSE_CFLAGS) $(SQLITE_CFLAGS) $(BLKID_CFLAGS) $(UUID_CFLAGS) $(XXHASH_CFLAGS) $(ISAL_CFLAGS) $(URING_CFLAGS)
AM_CFLAGS = -std=gnu11 -pthread $(WARN_CFLAGS) $(SAN_FLAGS)
AM_LDFLAGS = -pthread $(SAN_FLAGS)

# What every program links, in the order of the rooms: upper ones first.
CORE_LIBS = $(top_builddir)/meta/libmeta.a $(top_builddir)/alloc/liballoc.a \
	$(top_builddir)/block/libblock.a $(top_builddir)/util/libutil.a
CORE_LDADD = $(CORE_LIBS) $(SQLITE_LIBS) $(UUID_LIBS) $(XXHASH_LIBS) $(ISAL_LIBS)
