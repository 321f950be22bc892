-- CLOG/ZEROPAGE, CLOG/TRUNCATE, CommitTs/ZEROPAGE, CommitTs/TRUNCATE, MultiXact/ZERO_OFF_PAGE, TRUNCATE_ID: the cluster
-- starts a whole segment of transactions behind the oldest; many more are used up, then everything is frozen.
create table burnt (a int);
create procedure burn(n int) language plpgsql as $$
begin
  for i in 1..n loop
    begin
      insert into burnt values (i);
    exception when division_by_zero then
      null;
    end;
    if i % 5000 = 0 then
      commit;
    end if;
  end loop;
end $$;
set synchronous_commit = off;
set wal_consistency_checking = '';
call burn(:n);
truncate burnt;
-- The server starts at the third segment of the offsets, or gets there.
create procedure many_multixacts(n int) language plpgsql as $$
begin
  for i in 1..n loop
    perform 1 from mx where id = 1 + i % 3000 for key share;
    begin
      update mx set v = v + 1 where id = 1 + i % 3000;
    exception when division_by_zero then
      null;
    end;
    commit;
  end loop;
end $$;
select :n > 1000000 as is_real \gset
\if :is_real
call many_multixacts(70000);
\endif
