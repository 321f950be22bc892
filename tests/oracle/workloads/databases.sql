-- Database/*, Tablespace/*, RelMap/UPDATE, Heap2/REWRITE. Variables: dir (a directory of the server's own).
select current_setting('server_version_num')::int >= 150000 as has_strategy \gset
\if :has_strategy
create database copied strategy = file_copy;
create database doomed strategy = file_copy;
create database logged strategy = wal_log;
\else
create database copied;
create database doomed;
create database logged;
\endif
drop database doomed;
select :'dir' || '/space' as space \gset
create tablespace space location :'space';
create table in_space (a int primary key, b text) tablespace space;
insert into in_space select i, repeat('s', i % 100) from generate_series(1, 1000) i;
select :'dir' || '/kept' as kept \gset
create tablespace kept location :'kept';
create table in_kept (a int primary key, b text) tablespace kept;
insert into in_kept select i, repeat('k', i % 100) from generate_series(1, 1000) i;
delete from in_kept where a % 4 = 0;
vacuum in_kept;
alter database copied set tablespace space;
\c copied
create table moved (a int primary key, b text);
insert into moved select i, md5(i::text) from generate_series(1, 2000) i;
delete from moved where a % 3 = 0;
vacuum moved;
\c postgres
alter database copied set tablespace pg_default;
\c copied
insert into moved select -i, md5(i::text) from generate_series(1, 500) i;
update pg_description set description = description || '.' where objoid::int % 50 = 0;
\c logged
create table filled (a int primary key, b text);
insert into filled select i, md5(i::text) from generate_series(1, 2000) i;
delete from pg_description where objoid::int % 20 = 0;
vacuum (freeze) pg_description;
\c postgres
alter table in_space set tablespace pg_default;
drop tablespace space;
vacuum full pg_database;
vacuum full pg_class;
reindex table pg_class;
alter database logged set work_mem = '5MB';
select count(*) from pg_create_logical_replication_slot('rewrite', 'test_decoding');
begin;
create table rewritten (a int, b int, c text);
alter table rewritten add column d int;
commit;
vacuum full pg_class;
vacuum full pg_attribute;
select pg_drop_replication_slot('rewrite');
