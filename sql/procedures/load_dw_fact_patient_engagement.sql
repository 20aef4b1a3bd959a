-- Touches: campaigns and referrals that reached a patient.
create or replace view stg_fact_patient_engagement as
select
    s.source_instance_id,
    'dim_patient_campaign_touches_staging'::text as source_table,
    s.parent_source_id,
    s.source_id,
    s.data ->> 'date' as event_time,
    s.parent_source_id as patient_id,
    s.data -> 'study' ->> 'id' as study_id,
    'campaign/' || (s.data -> 'campaignElement' ->> 'id') as patient_engagement_id,
    'campaign'::text as channel
from dim_patient_campaign_touches_staging as s
union all
select
    s.source_instance_id,
    'dim_patient_referral_touches_staging'::text as source_table,
    s.parent_source_id,
    s.source_id,
    s.data ->> 'date' as event_time,
    s.parent_source_id as patient_id,
    s.data -> 'study' ->> 'id' as study_id,
    'referral/' || (s.data ->> 'referralType') as patient_engagement_id,
    'referral' as channel
from dim_patient_referral_touches_staging as s;
comment on view stg_fact_patient_engagement is 'Staging as dw_fact_patient_engagement reads it; text that is still to be cast.';

create or replace procedure load_dw_fact_patient_engagement(full_refresh boolean default false, inout run_id bigint default null)
language plpgsql as $$
begin
    run_id := dw_apply('load_dw_fact_patient_engagement', full_refresh, run_id);
end $$;
comment on procedure load_dw_fact_patient_engagement (boolean, bigint) is 'Loads dw_fact_patient_engagement.';

select dw_register('load_dw_fact_patient_engagement', 'fact', 44, '{dim_patient_campaign_touches_staging,dim_patient_referral_touches_staging}', '{load_dw_dim_date,load_dw_dim_patient,load_dw_dim_study,load_dw_dim_patient_engagement}');
