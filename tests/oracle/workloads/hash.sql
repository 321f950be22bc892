-- Hash/*: overflow pages, splits, squeezing, cleaning.
create table ha (a int, b int) with (autovacuum_enabled = off);
create index ha_a on ha using hash (a);
insert into ha select i % 5, i from generate_series(1, 3000 * :n) i;
delete from ha where b % 10 <> 0;
vacuum ha;
insert into ha select i % 5, i from generate_series(1, 800 * :n) i;
delete from ha where b % 2 = 0;
vacuum ha;
insert into ha select i, i from generate_series(1, 500 * :n) i;
delete from ha where b % 3 = 0;
vacuum ha;
-- Equal keys over several overflow pages, deleted in the middle: contents move without a page being freed.
create table hm (a int, b int) with (autovacuum_enabled = off);
create index hm_a on hm using hash (a);
set wal_consistency_checking = 'hash';
insert into hm select 1, i from generate_series(1, 4000) i;
delete from hm where b between 300 and 3000 and b % 8 <> 0;
vacuum hm;
insert into hm select i % 3, i from generate_series(1, 3000) i;
delete from hm where b % 5 <> 0;
vacuum hm;
reset wal_consistency_checking;
-- Dead tuples that an index scan has marked, removed when the page is full.
create table hv (a int, b int) with (autovacuum_enabled = off);
create index hv_a on hv using hash (a);
insert into hv select 1, i from generate_series(1, 400) i;
delete from hv;
set enable_seqscan = off;
set enable_bitmapscan = off;
select count(*) from hv where a = 1;
select count(*) from hv where a = 1;
reset enable_seqscan;
reset enable_bitmapscan;
insert into hv select 1, i from generate_series(1, 800) i;
create table hb (a int);
insert into hb select i from generate_series(1, 1000 * :n) i;
create index on hb using hash (a);
