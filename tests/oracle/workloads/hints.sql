-- XLOG/FPI_FOR_HINT, on a cluster with data checksums: the first reader after a checkpoint sets hint bits.
create table hinted (a int, b text) with (autovacuum_enabled = off);
insert into hinted select i, repeat('x', 100) from generate_series(1, 20000) i;
checkpoint;
select count(*) from hinted;
vacuum hinted;
delete from hinted where a % 10 = 0;
checkpoint;
select count(*) from hinted;
vacuum hinted;
insert into hinted select i, repeat('y', 100) from generate_series(1, 2000) i;
create index on hinted (a);
create table crowded (a int primary key, v int);
insert into crowded select i, 0 from generate_series(1, 500) i;
do $$ begin for k in 1..20 loop update crowded set v = v + 1; commit; end loop; end $$;
