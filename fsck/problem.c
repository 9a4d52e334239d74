// SPDX-License-Identifier: MIT
#include "fsck/problem.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>

#include "fsck/fsck.h"
#include "fsck/progress.h"
#include "util/attr.h"

enum problem_flags {
	PREEN = 1 << 0,     // -p repairs it: nothing can be lost by that
	NO_REPAIR = 1 << 1, // nothing to be done but what the user can do
};

struct problem {
	const char *id;     // printed with -v; what the tests look for
	const char *text;
	const char *repair; // the question
	unsigned flags;
};

static const struct problem problems[FP_N] = {
	// superblock and database
	[FP_SB_COPY] = { "sb-copy", "superblock copy {is} is damaged", "Rewrite", PREEN },
	[FP_DB_OPEN] = { "db-open", "the database cannot be opened: {text}",
	                 "Write it anew from what can be read", 0 },
	[FP_DB_INTEGRITY] = { "db-integrity", "the database is damaged: {text}",
	                      "Write it anew from what can be read", 0 },
	[FP_TXN_NUMBER] = { "txn-number", "the number of the last transaction is {is}", "Correct", PREEN },
	[FP_DEFERRED_FROM] = { "deferred-from", "deferred writes count from transaction {is} on, but the last one is {should}", "Correct",
	                       PREEN },
	[FP_ROW_TYPE] = { "row-type", "table {name}: {is} rows hold values of a wrong type", "Convert or remove", 0 },

	// inodes
	[FP_ROOT_MISSING] = { "root-missing", "the root directory's inode is missing", "Create", 0 },
	[FP_INODE_NUMBER] = { "inode-number", "inode {is}: not a valid inode number", "Remove", 0 },
	[FP_INODE_MODE] = { "inode-mode", "inode {ino}: mode {name} has no valid type, it should be {text}", "Correct", 0 },
	[FP_INODE_FIELD] = { "inode-field", "inode {ino}: {name} is {is}, out of range", "Set to {should}", 0 },
	[FP_INODE_FLAGS] = { "inode-flags", "inode {ino}: flags {is} contain unknown bits or do not suit its type",
	                     "Clear them", 0 },
	[FP_INODE_SIZE] = { "inode-size", "inode {ino}: size {is} is not possible", "Set to {should}", 0 },
	[FP_INODE_BLOCKS] = { "inode-blocks", "inode {ino}: block count is {is}, should be {should}", "Correct", PREEN },
	[FP_SYMLINK_TARGET] = { "symlink-target", "inode {ino}: symbolic link without a valid target", "Remove", 0 },
	[FP_SYMLINK_SIZE] = { "symlink-size", "inode {ino}: symbolic link has size {is}, should be {should}", "Correct",
	                      PREEN },
	[FP_INLINE_UNMARKED] = { "inline-unmarked", "inode {ino}: has inline data but is not marked so", "Mark", 0 },
	[FP_INLINE_MISSING] = { "inline-missing", "inode {ino}: is marked as inline but its inline data is missing",
	                        "Unmark (what has no blocks reads as zeros)", 0 },
	[FP_INLINE_STRAY] = { "inline-stray", "inode {ino}: has inline data that does not belong to it", "Remove", 0 },
	[FP_INLINE_SIZE] = { "inline-size", "inode {ino}: has {is} bytes of inline data for a size of {should}",
	                     "Make them agree", 0 },
	[FP_XATTR_BAD] = { "xattr-bad", "inode {ino}: extended attribute \"{name}\" ({is} bytes) is not valid", "Remove", 0 },
	[FP_ACL_BAD] = { "acl-bad", "inode {ino}: access control list \"{name}\" ({is} bytes) is not valid", "Remove", 0 },
	[FP_ACL_MODE] = { "acl-mode", "inode {ino}: the access control list does not agree with the permissions {text}", "Make it follow them", 0 },
	[FP_ACL_FLAGS] = { "acl-flags", "inode {ino}: flags {is} do not say which access control lists there are", "Correct", 0 },
	[FP_ROW_DANGLING] = { "row-dangling", "table {name} has rows of inode {is}, which does not exist", "Remove", 0 },
	[FP_NEXT_INO] = { "next-ino", "the next inode number is {is}, should be at least {should}", "Correct", PREEN },
	[FP_INODE_COUNT] = { "inode-count", "the number of inodes is {is}, should be {should}", "Correct", PREEN },

	// blocks of files
	[FP_EXTENT_STRAY] = { "extent-stray", "inode {ino}: extent at {off} in a file that may have none", "Remove", 0 },
	[FP_EXTENT_RANGE] = { "extent-range", "inode {ino}: extent at {is}, blocks {start}+{len}, is out of range", "Remove",
	                      0 },
	[FP_EXTENT_SYSTEM] = { "extent-system", "inode {ino}: extent at {off} claims metadata in blocks {start}+{len}",
	                       "Remove", 0 },
	[FP_EXTENT_OVERLAP] = { "extent-overlap", "inode {ino}: extent at {off} overlaps the one before it", "Remove", 0 },
	[FP_EXTENT_FLAGS] = { "extent-flags", "inode {ino}: extent at {off} has unknown flags {is}", "Clear them", 0 },
	[FP_EXTENT_PAST_END] = { "extent-past-end", "inode {ino}: extent at {off} holds data behind the end of the file",
	                         "Let it be cut off", PREEN },
	[FP_BLOCKS_SHARED] = { "blocks-shared", "inode {ino}: extent at {off} claims block {start}, which is another's",
	                       "Copy what is shared to free blocks", 0 },

	// free space
	[FP_SPACEMAP_BAD] = { "spacemap-bad", "metaslab {is}: its space map contradicts itself", "Rebuild", 0 },
	[FP_SPACEMAP_SEQ] = { "spacemap-seq", "metaslab {is}: its space map is of a later transaction than the volume",
	                      "Rebuild", 0 },
	[FP_BLOCKS_LOST] = { "blocks-lost", "metaslab {is}: {len} used blocks belong to nobody, first {start}", "Free", PREEN },
	[FP_BLOCKS_FREE] = { "blocks-free", "metaslab {is}: {len} blocks of files are marked free, first {start}",
	                     "Mark as used", 0 },
	[FP_METASLAB_COUNT] = { "metaslab-count", "metaslab {off}: {name} is {is}, should be {should}", "Correct", PREEN },
	[FP_METASLAB_STRAY] = { "metaslab-stray", "table {name} has {is} rows of metaslabs that do not exist", "Remove", 0 },

	// checksums and deferred writes
	[FP_CSUM_CHUNK] = { "csum-chunk", "{is} rows of checksums are of blocks that do not exist", "Remove", PREEN },
	[FP_CSUM_SIZE] = { "csum-size", "the checksums of blocks {start} to {off} are not {len} bytes", "Remove", 0 },
	[FP_CSUM_MISSING] = { "csum-missing", "metaslab {is}: {len} blocks of files have no checksum, first {start}",
	                      "Compute them from what the device holds (which nobody can vouch for)", 0 },
	[FP_DEFERRED_ROW] = { "deferred-row", "row {is} of the deferred writes has numbers that cannot be, or is the second one for its block",
	                      "Remove", 0 },
	[FP_DEFERRED_PLACE] = { "deferred-place", "a deferred write is for block {is}, which is not a file's with checksums", "Remove", 0 },
	[FP_DEFERRED_SIZE] = { "deferred-size", "the deferred write for block {start} has {is} bytes", "Remove", 0 },
	[FP_DEFERRED_CRC] = { "deferred-crc", "the deferred write for block {start} does not match its checksum",
	                      "Remove (what is on the device counts)", 0 },

	// names
	[FP_DIRENT_PARENT] = { "dirent-parent", "inode {parent} is not a directory but has entries", "Remove them", 0 },
	[FP_DIRENT_NAME] = { "dirent-name", "directory {parent}: entry \"{name}\" for inode {ino} has an invalid name",
	                     "Rename", 0 },
	[FP_DIRENT_COOKIE] = { "dirent-cookie", "directory {parent}: entry \"{name}\" is filed in a wrong place", "Move", 0 },
	[FP_DIRENT_DUPLICATE] = { "dirent-duplicate", "directory {parent}: entry \"{name}\" is there twice", "Rename one", 0 },
	[FP_DIRENT_TARGET] = { "dirent-target", "directory {parent}: entry \"{name}\" names inode {is}, which does not exist",
	                       "Remove", 0 },
	[FP_DIRENT_TYPE] = { "dirent-type", "directory {parent}: entry \"{name}\" has type {is}, inode {ino} has {should}",
	                     "Correct", PREEN },
	[FP_DIR_HARDLINK] = { "dir-hardlink", "directory {parent}: entry \"{name}\" is another name of directory {ino}",
	                      "Remove", 0 },
	[FP_DIR_PARENT] = { "dir-parent", "directory {ino}: its parent is {is}, should be {should}", "Correct", 0 },
	[FP_DIR_LOOP] = { "dir-loop", "directory {ino}: contains itself", "Move to lost+found", 0 },
	[FP_DIR_UNCONNECTED] = { "dir-unconnected", "directory {ino}: is not connected to the tree", "Move to lost+found", 0 },
	[FP_UNCONNECTED] = { "unconnected", "inode {ino}: has no name", "Move to lost+found", 0 },
	[FP_ORPHAN_MISSING] = { "orphan-missing", "inode {ino}: was deleted but never removed", "Let it be removed", PREEN },
	[FP_LINK_COUNT] = { "link-count", "inode {ino}: link count is {is}, should be {should}", "Correct", PREEN },
	[FP_DIR_SIZE] = { "dir-size", "directory {ino}: size is {is} entries, should be {should}", "Correct", PREEN },

	// scrub
	[FP_FILE_DAMAGED] = { "file-damaged", "inode {ino}, {name}: {text}", "", NO_REPAIR },
};

// ---- texts ----

const char *escape_name(const void *name, int len, char buf[ESCAPED_NAME_LEN])
{
	const unsigned char *from = name;
	char *to = buf;

	for (int i = 0; from != NULL && i < len && i < 255; i++) {
		if (from[i] < ' ' || from[i] == 0x7f || from[i] == '\\')
			to += sprintf(to, "\\%03o", from[i]);
		else
			*to++ = (char)from[i];
	}
	*to = '\0';
	return buf;
}

static int put_value(const struct fact *fact, const char *word, size_t len, char *to, size_t room)
{
	const struct {
		const char *word;
		uint64_t value;
	} numbers[] = { { "ino", fact->ino }, { "parent", fact->parent }, { "off", fact->off }, { "start", fact->start },
		        { "len", fact->len } };

	for (size_t i = 0; i < ARRAY_LEN(numbers); i++)
		if (strlen(numbers[i].word) == len && memcmp(word, numbers[i].word, len) == 0)
			return snprintf(to, room, "%" PRIu64, numbers[i].value);
	if (len == 2 && memcmp(word, "is", 2) == 0)
		return snprintf(to, room, "%" PRId64, fact->is);
	if (len == 6 && memcmp(word, "should", 6) == 0)
		return snprintf(to, room, "%" PRId64, fact->should);
	return snprintf(to, room, "%s", len == 4 && word[0] == 'n' ? fact->name : fact->text);
}

static void expand(const char *text, const struct fact *fact, char *buf, size_t cap)
{
	size_t n = 0;

	while (*text != '\0' && n + 1 < cap) {
		size_t word_len = *text == '{' ? strcspn(text, "}") - 1 : 0;
		int put;

		if (*text != '{') {
			buf[n++] = *text++;
			continue;
		}
		put = put_value(fact, text + 1, word_len, buf + n, cap - n);
		n = put < 0 || (size_t)put >= cap - n ? cap - 1 : n + (size_t)put;
		text += word_len + 2;
	}
	buf[n] = '\0';
}

// ---- decisions ----

// A line from the terminal; its end means no to everything that follows.
static bool ask(struct fsck *f)
{
	char line[64];

	for (;;) {
		fflush(fsck_out(f));
		if (fgets(line, sizeof(line), stdin) == NULL) {
			f->mode = FSCK_NO;
			fprintf(fsck_out(f), "no\n");
			return false;
		}
		if (line[0] == 'y' || line[0] == 'Y' || line[0] == '\n')
			return true;
		if (line[0] == 'n' || line[0] == 'N')
			return false;
		if (line[0] == 'a' || line[0] == 'A') {
			f->mode = FSCK_YES;
			return true;
		}
		fprintf(fsck_out(f), "  (y)es, (n)o or yes to (a)ll? ");
	}
}

static bool decide(struct fsck *f, const struct problem *p, const char *repair)
{
	bool yes = false;

	if ((p->flags & NO_REPAIR) != 0 || f->online) {
		fprintf(fsck_out(f), "\n");
		return false;
	}
	fprintf(fsck_out(f), ". %s? ", repair);
	switch (f->mode) {
	case FSCK_ASK:
		fprintf(fsck_out(f), "[y/n/a] ");
		return ask(f);
	case FSCK_YES:
		yes = true;
		break;
	case FSCK_PREEN:
		yes = (p->flags & PREEN) != 0;
		break;
	case FSCK_NO:
		break;
	}
	fprintf(fsck_out(f), "%s\n", yes ? "yes" : "no");
	return yes;
}

void problem_note(struct fsck *f, const char *fmt, ...)
{
	va_list args;

	progress_hide(f);
	fprintf(fsck_out(f), "%s: ", f->device);
	va_start(args, fmt);
	vfprintf(fsck_out(f), fmt, args);
	va_end(args);
	fprintf(fsck_out(f), "\n");
}

bool problem_found(struct fsck *f, enum problem_code code, const struct fact *fact)
{
	const struct problem *p = &problems[code];
	char text[8192], repair[128];
	bool yes;

	expand(p->text, fact, text, sizeof(text));
	expand(p->repair, fact, repair, sizeof(repair));
	progress_hide(f);
	fprintf(fsck_out(f), "%s: %s", f->device, text);
	if (f->verbose)
		fprintf(fsck_out(f), " [%s]", p->id);
	yes = decide(f, p, repair);
	if (yes)
		f->n_fixed++;
	else
		f->n_left++;
	if (!yes && f->mode == FSCK_PREEN && (p->flags & NO_REPAIR) == 0) {
		fprintf(fsck_out(f), "%s: this is not repaired automatically: run fsck.hybridfs without -p\n", f->device);
		f->give_up = true;
	}
	return yes;
}
