-- Studies. There is no field for the number of subjects wanted; sites keep it in a custom field, as text.
create or replace view stg_dim_study as
select
    s.source_instance_id,
    s.parent_source_id,
    s.source_id,
    coalesce(s.data ->> 'modifiedDate', s.data ->> 'lastUpdatedOn') as source_time,
    s.updated_at at time zone 'UTC' as observed_at,
    s.data ->> 'name' as name,
    s.data ->> 'status' as status,
    s.data ->> 'phase' as phase,
    s.data ->> 'category' as category,
    s.data ->> 'subcategory' as subcategory,
    s.data ->> 'identifier' as identifier,
    s.data ->> 'protocolNumber' as protocol_number,
    s.data ->> 'nctNumber' as nct_number,
    s.data ->> 'indIdeNumber' as ind_ide_number,
    s.data ->> 'title' as title,
    s.data -> 'sponsor' ->> 'id' as sponsor_id,
    s.data -> 'sponsor' ->> 'name' as sponsor_name,
    s.data -> 'sponsorDivision' ->> 'id' as sponsor_division_id,
    s.data -> 'sponsorTeam' ->> 'id' as sponsor_team_id,
    s.data -> 'managingSite' ->> 'id' as managing_site_id,
    s.data -> 'managingSite' ->> 'name' as managing_site_name,
    coalesce(s.data -> 'organization' ->> 'Id', s.data -> 'organization' ->> 'id') as organization_id,
    nullif(s.data -> 'studyTypes', 'null') as study_types,
    nullif(s.data -> 'studyGroups', 'null') as study_groups,
    s.data ->> 'studyCurrency' as currency,
    s.data ->> 'launchYear' as launch_year,
    coalesce(s.data ->> 'targetEnrollment', substring(jsonb_path_query_first(s.data, '$.customFields[*] ? (@.name like_regex "enrol.*(target|goal)|(target|goal).*enrol" flag "i").value') #>> '{}' from '^\s*(\d{1,9})\M')) as target_enrollment,
    s.data -> 'opportunityDetails' ->> 'probability' as opportunity_probability,
    s.data -> 'opportunityDetails' ->> 'expectedNumberOfSites' as expected_sites,
    s.data ->> 'createdOn' as created_on
from dim_studies_staging as s;
comment on view stg_dim_study is 'Staging as dw_dim_study reads it; text that is still to be cast.';

create or replace procedure load_dw_dim_study(full_refresh boolean default false, inout run_id bigint default null)
language plpgsql as $$
begin
    run_id := dw_apply('load_dw_dim_study', full_refresh, run_id);
end $$;
comment on procedure load_dw_dim_study (boolean, bigint) is 'Loads dw_dim_study.';

select dw_register('load_dw_dim_study', 'scd2', 20, '{dim_studies_staging}');
