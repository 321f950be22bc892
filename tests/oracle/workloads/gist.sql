-- Gist/*: splits, deletion of dead tuples and of pages, reuse.
create table gs (p point, b int) with (autovacuum_enabled = off);
create index gs_p on gs using gist (p);
insert into gs select point(i % 100, i / 100), i from generate_series(1, 20000) i;
delete from gs where b % 2 = 0;
set enable_seqscan = off;
set enable_bitmapscan = off;
select count(*) from gs where p <@ box '((0,0),(100,300))';
select count(*) from gs where p <@ box '((0,0),(100,300))';
insert into gs select point(i % 100, i / 100), i from generate_series(1, 2000 * :n) i;
delete from gs where p[0] < 60;
vacuum gs;
reset enable_seqscan;
reset enable_bitmapscan;
insert into gs select point(i % 7, i / 7), i from generate_series(1, 5) i;
select txid_current();
begin; insert into gs values (point(0, 0), 0); commit;
select txid_current();
vacuum gs;
insert into gs select point(200 + (i * 7919) % 1000 / 10.0, (i * 104729) % 3000 / 10.0), i from generate_series(1, 6000) i;
create table boxes (b box, t tsvector) with (autovacuum_enabled = off);
create index boxes_b on boxes using gist (b);
create index boxes_t on boxes using gist (t);
insert into boxes select box(point(i % 100, i), point(i % 100 + 5, i + 5)), to_tsvector('simple', md5(i::text))
  from generate_series(1, 300 * :n) i;
update boxes set t = to_tsvector('simple', 'again') where (b[0])[0] < 50;
delete from boxes where (b[0])[0] > 80;
vacuum boxes;
create index boxes_sorted on gs using gist (p);
