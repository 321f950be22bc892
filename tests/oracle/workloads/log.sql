-- XLOG/SWITCH, RESTORE_POINT, FPW_CHANGE, BACKUP_END, NEXTOID; LogicalMessage, ReplicationOrigin, Transaction/*.
select pg_create_restore_point('here');
select pg_switch_wal();
select pg_logical_emit_message(false, 'prefix', 'at once');
begin;
select pg_logical_emit_message(true, 'prefix', repeat('x', 5000));
commit;
create table origin (a int);
select pg_replication_origin_create('origin');
select pg_replication_origin_session_setup('origin');
begin;
select pg_replication_origin_xact_setup('0/1234', '2020-01-01');
insert into origin values (1);
commit;
select pg_replication_origin_session_reset();
select pg_replication_origin_advance('origin', '0/5678');
select pg_replication_origin_drop('origin');
-- Two-phase, subtransactions beyond what a backend caches, aborts that unlink files.
begin;
insert into origin values (2);
select pg_logical_emit_message(true, 'prefix', 'prepared');
prepare transaction 'first';
commit prepared 'first';
begin;
create table never (a int);
insert into never values (1);
prepare transaction 'second';
rollback prepared 'second';
begin;
drop table origin;
create table origin (a int);
prepare transaction 'third';
commit prepared 'third';
begin;
create table rolled_back as select i from generate_series(1, 100) i;
rollback;
begin;
create table subtransactions (a int);
do $$
begin
  for i in 1..200 loop
    begin
      insert into subtransactions values (i);
    exception when division_by_zero then
      null;
    end;
  end loop;
end $$;
commit;
begin;
savepoint a;
insert into subtransactions values (1001);
rollback to a;
insert into subtransactions values (1002);
commit;
select lo_create(12345);
select lo_put(12345, 0, repeat('large', 8000)::bytea);
select lo_unlink(12345);
-- A pool of 8192 object numbers is logged ahead.
do $$ begin for i in 1..8400 loop perform lo_unlink(lo_create(0)); end loop; end $$;
-- Changes without full-page writes: their bases lie in earlier images only.
create table without_images (a int primary key, b text);
insert into without_images select i, repeat('x', i % 200) from generate_series(1, 2000 * :n) i;
alter system set full_page_writes = off;
select pg_reload_conf();
checkpoint;
update without_images set b = b || 'y' where a % 3 = 0;
delete from without_images where a % 7 = 0;
vacuum without_images;
alter system reset full_page_writes;
select pg_reload_conf();
checkpoint;
select current_setting('server_version_num')::int >= 150000 as has_backup_start \gset
\if :has_backup_start
select pg_backup_start('backup', true);
select lsn from pg_backup_stop(false);
\else
select pg_start_backup('backup', true, false);
select lsn from pg_stop_backup(false, false);
\endif
