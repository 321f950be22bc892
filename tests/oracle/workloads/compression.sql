-- Images compressed in each way that the server knows, with changes in between.
create table squeezed (a int primary key, b text) with (autovacuum_enabled = off);
insert into squeezed select i, repeat(md5((i % 10)::text), 10) from generate_series(1, 2000) i;
select exists (select from pg_settings where name = 'wal_compression' and 'lz4' = any (enumvals)) as lz4,
  exists (select from pg_settings where name = 'wal_compression' and 'zstd' = any (enumvals)) as zstd \gset
checkpoint;
set wal_compression = on;
update squeezed set b = b || '1' where a % 7 = 0;
\if :lz4
checkpoint;
set wal_compression = lz4;
update squeezed set b = b || '2' where a % 5 = 0;
\endif
\if :zstd
checkpoint;
set wal_compression = zstd;
update squeezed set b = b || '3' where a % 3 = 0;
\endif
checkpoint;
set wal_compression = off;
update squeezed set b = b || '4' where a % 2 = 0;
vacuum squeezed;
