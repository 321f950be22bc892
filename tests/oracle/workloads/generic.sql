-- Generic/Generic: the extension bloom.
create extension bloom;
create table bl (a int, b int, c int) with (autovacuum_enabled = off);
create index on bl using bloom (a, b, c);
insert into bl select i, i * 7, i * 13 from generate_series(1, 1000 * :n) i;
delete from bl where a % 3 = 0;
vacuum bl;
insert into bl select i, i, i from generate_series(1, 300 * :n) i;
create table bl2 (a int, b int);
insert into bl2 select i, i from generate_series(1, 200 * :n) i;
create index on bl2 using bloom (a, b);
