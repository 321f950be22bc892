-- MultiXact/CREATE_ID, ZERO_OFF_PAGE, ZERO_MEM_PAGE; Heap/LOCK; Heap2/LOCK_UPDATED.
create table mx (id int primary key, v int) with (autovacuum_enabled = off);
insert into mx select i, 0 from generate_series(1, 3000) i;
vacuum (freeze) mx;
-- Every row gets a multixact of its own: a lock of the transaction and an update of its subtransaction.
create procedure lock_and_update(first int, last int) language plpgsql as $$
begin
  for i in first..last loop
    perform 1 from mx where id = i for key share;
    begin
      update mx set v = v + 1 where id = i;
    exception when division_by_zero then
      null;
    end;
    commit;
  end loop;
end $$;
call lock_and_update(1, 2200);
-- Rows that an open transaction has updated are locked: the lock follows to the new version.
begin;
update mx set v = v + 10 where id between 2501 and 2550;
prepare transaction 'updater';
begin;
select count(*) from (select 1 from mx where id between 2501 and 2550 for key share) x;
commit;
commit prepared 'updater';
begin;
select count(*) from (select 1 from mx where id between 2601 and 2650 for key share) x;
prepare transaction 'locker';
begin;
update mx set v = v + 100 where id between 2601 and 2620;
prepare transaction 'updater';
select count(*) from (select 1 from mx where id between 2601 and 2620 for key share) x;
commit prepared 'locker';
rollback prepared 'updater';
vacuum (freeze) mx;
-- The same with rows of pages that are all-visible and all-frozen.
begin;
select count(*) from (select 1 from mx where id % 10 = 0 for share) x;
prepare transaction 'locker';
select count(*) from (select 1 from mx where id % 20 = 0 for key share) x;
commit prepared 'locker';
