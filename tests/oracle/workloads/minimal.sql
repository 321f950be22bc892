-- Gist/ASSIGN_LSN: wal_level = minimal, everything in the transaction that creates the relation.
begin;
create table g (p point);
create index on g using gist (p);
insert into g select point((i * 7919) % 1000, (i * 104729) % 1000) from generate_series(1, 5000) i;
commit;
begin;
create table skipped (a int primary key, b text);
insert into skipped select i, repeat('x', 100) from generate_series(1, 1000) i;
commit;
update skipped set b = 'y' where a % 10 = 0;
checkpoint;
