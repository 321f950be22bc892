-- BRIN/*: summaries that grow beyond their page, the range map extended, ranges desummarised.
create table br (a int, t text) with (autovacuum_enabled = off, fillfactor = 20);
set wal_consistency_checking = '';
insert into br select i, repeat('x', 100) from generate_series(1, 20000) i;
reset wal_consistency_checking;
create index br_at on br using brin (a, t) with (pages_per_range = 1, autosummarize = off);
insert into br select -i, repeat('z', i % 500) from generate_series(1, 2000 * :n) i;
select brin_summarize_new_values('br_at');
select brin_desummarize_range('br_at', 5);
update br set t = repeat('y', a % 900) where a % 100 = 0;
vacuum br;
select brin_summarize_new_values('br_at');
create table bm (a int, b timestamptz) with (autovacuum_enabled = off);
create index on bm using brin (a int4_minmax_multi_ops) with (pages_per_range = 2);
create index on bm using brin (a int4_bloom_ops) with (pages_per_range = 4);
insert into bm select (i * 7919) % 1000, now() from generate_series(1, 1000 * :n) i;
vacuum bm;
insert into bm select i, now() from generate_series(1, 1000) i;
