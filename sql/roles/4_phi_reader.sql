-- Reads what the analyst reads, and the patients with their names and contact data.
do $$ begin
    if not exists (select from pg_roles where rolname = 'trialsync_phi_reader') then
        create role trialsync_phi_reader nologin;
    end if;
end $$;
comment on role trialsync_phi_reader is 'TrialSync: reads patients with their names';
grant usage on schema public to trialsync_phi_reader;
grant trialsync_analyst to trialsync_phi_reader;
grant select on dw_dim_patient, v_patients_current to trialsync_phi_reader;
