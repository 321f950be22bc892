-- Btree/*: splits both ways, posting lists, deduplication, deletion, page deletion and its reuse.
create table bt (a int, b text) with (autovacuum_enabled = off);
create index bt_a on bt (a);
create index bt_b on bt (b);
insert into bt select i % 300, 'key' || (i % 2000) from generate_series(1, 3000 * :n) i;
insert into bt select (i * 7919) % 300, 'key' || (i * 104729) % 2000 from generate_series(1, 1500 * :n) i;
delete from bt where a between 50 and 150;
vacuum bt;
vacuum bt;
select txid_current();
insert into bt select i % 300, 'k' from generate_series(1, 500 * :n) i;
-- Descending and random order: splits with the new tuple on the left.
create table down (a bigint, b text) with (autovacuum_enabled = off);
create index down_a on down (a);
create index down_b on down (b);
insert into down select -i, repeat(md5(i::text), 8) from generate_series(1, 1000 * :n) i;
-- Wide keys make a tree of several levels.
create table wide (a text) with (autovacuum_enabled = off);
create index wide_a on wide (a);
alter table wide alter a set storage plain;
insert into wide select repeat(md5(i::text), 50) from generate_series(1, 150 * :n) i;
-- Deleting all but the rightmost leaf leaves a fast root below the root; filling it again splits the fast root.
create table fast (a int primary key) with (autovacuum_enabled = off);
set wal_consistency_checking = '';
insert into fast select i from generate_series(1, 120000) i;
delete from fast where a <= 119900;
reset wal_consistency_checking;
vacuum fast;
begin; insert into fast values (0); commit;
vacuum fast;
insert into fast select i from generate_series(120001, 123000) i;
-- Versions of the same logical row: bottom-up and simple deletion.
create table versions (id int primary key, v int, w int) with (autovacuum_enabled = off);
create index versions_v on versions (v);
create index versions_w on versions (w);
insert into versions select i, i, 1 from generate_series(1, 100 * :n) i;
do $$ begin for k in 1..20 loop update versions set v = v + 1; commit; end loop; end $$;
delete from versions where id % 2 = 0;
set enable_seqscan = off;
set enable_bitmapscan = off;
select count(*) from versions where v > 0;
select count(*) from versions where v > 0;
reset enable_seqscan;
reset enable_bitmapscan;
insert into versions select 100000 + i, i, 1 from generate_series(1, 100 * :n) i;
vacuum versions;
create index concurrently versions_vw on versions (v, w);
reindex index concurrently versions_vw;
