/*
 * An extension with a resource manager of its own (PostgreSQL 15 and later), as small as one can be. Compiled by
 * tests/src/extension.rs. Its records change a page's LSN and nothing else.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "access/xloginsert.h"
#include "access/xlogutils.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/pg_lsn.h"
#include "utils/rel.h"

PG_MODULE_MAGIC;

#define TEST_RMID RM_EXPERIMENTAL_ID
#define WITH_BLOCK 0x00
#define WITHOUT_BLOCK 0x10

static void
test_redo(XLogReaderState *record)
{
	Buffer		buffer;

	if ((XLogRecGetInfo(record) & ~XLR_INFO_MASK) != WITH_BLOCK)
		return;
	if (XLogReadBufferForRedo(record, 0, &buffer) == BLK_NEEDS_REDO)
	{
		PageSetLSN(BufferGetPage(buffer), record->EndRecPtr);
		MarkBufferDirty(buffer);
	}
	if (BufferIsValid(buffer))
		UnlockReleaseBuffer(buffer);
}

static void
test_desc(StringInfo buf, XLogReaderState *record)
{
	appendStringInfoString(buf, "test");
}

static const char *
test_identify(uint8 info)
{
	return (info & ~XLR_INFO_MASK) == WITH_BLOCK ? "WITH_BLOCK" : "WITHOUT_BLOCK";
}

static RmgrData test_manager = {
	.rm_name = "walfabric_test_rmgr",
	.rm_redo = test_redo,
	.rm_desc = test_desc,
	.rm_identify = test_identify,
};

void
_PG_init(void)
{
	if (process_shared_preload_libraries_in_progress)
		RegisterCustomRmgr(TEST_RMID, &test_manager);
}

PG_FUNCTION_INFO_V1(log_with_block);

/* log_with_block(regclass, block): a record that names the block and has no image of it; its end. */
Datum
log_with_block(PG_FUNCTION_ARGS)
{
	Relation	rel = relation_open(PG_GETARG_OID(0), AccessShareLock);
	Buffer		buffer = ReadBuffer(rel, (BlockNumber) PG_GETARG_INT32(1));
	int32		payload = 7;
	XLogRecPtr	end;

	LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
	START_CRIT_SECTION();
	MarkBufferDirty(buffer);
	XLogBeginInsert();
	XLogRegisterData((char *) &payload, sizeof(payload));
	XLogRegisterBuffer(0, buffer, REGBUF_STANDARD | REGBUF_NO_IMAGE);
	end = XLogInsert(TEST_RMID, WITH_BLOCK);
	PageSetLSN(BufferGetPage(buffer), end);
	END_CRIT_SECTION();
	UnlockReleaseBuffer(buffer);
	relation_close(rel, AccessShareLock);
	XLogFlush(end);
	PG_RETURN_LSN(end);
}

PG_FUNCTION_INFO_V1(log_without_block);

/* log_without_block(): a record that names no block; its end. */
Datum
log_without_block(PG_FUNCTION_ARGS)
{
	int32		payload = 7;
	XLogRecPtr	end;

	XLogBeginInsert();
	XLogRegisterData((char *) &payload, sizeof(payload));
	end = XLogInsert(TEST_RMID, WITHOUT_BLOCK);
	XLogFlush(end);
	PG_RETURN_LSN(end);
}
