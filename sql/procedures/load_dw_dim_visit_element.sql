-- Elements. A subject's completed element names its element by this id.
create or replace view stg_dim_visit_element as
select
    s.source_instance_id,
    s.parent_source_id,
    s.source_id,
    coalesce(s.data ->> 'modifiedDate', s.data ->> 'lastUpdatedOn') as source_time,
    s.updated_at at time zone 'UTC' as observed_at,
    s.data ->> 'uid' as uid,
    s.data -> 'study' ->> 'id' as study_id,
    s.data ->> 'name' as name,
    s.data ->> 'type' as type,
    s.data ->> 'description' as description,
    s.data ->> 'initialCategory' as initial_category,
    s.data ->> 'initialInvoiceability' as initial_invoiceability,
    s.data ->> 'budget' as budget,
    s.data ->> 'cost' as cost,
    s.data ->> 'placeOfService' as place_of_service,
    s.data ->> 'cpt' as cpt,
    s.data ->> 'mnemonic' as mnemonic,
    s.data ->> 'standardTimeMinutes' as standard_time_minutes,
    s.data -> 'roomAssignment' ->> 'name' as room_assignment,
    s.data -> 'roomAssignment' ->> 'type' as room_assignment_type,
    s.data ->> 'importId' as import_id,
    s.data ->> 'importType' as import_type
from dim_elements_staging as s;
comment on view stg_dim_visit_element is 'Staging as dw_dim_visit_element reads it; text that is still to be cast.';

create or replace procedure load_dw_dim_visit_element(full_refresh boolean default false, inout run_id bigint default null)
language plpgsql as $$
begin
    run_id := dw_apply('load_dw_dim_visit_element', full_refresh, run_id);
end $$;
comment on procedure load_dw_dim_visit_element (boolean, bigint) is 'Loads dw_dim_visit_element.';

select dw_register('load_dw_dim_visit_element', 'scd2', 24, '{dim_elements_staging}');
