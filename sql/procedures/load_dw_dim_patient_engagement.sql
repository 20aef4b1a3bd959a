-- Campaign elements and kinds of referral. No endpoint lists them: they are drawn from the patients' touches.
create or replace view stg_dim_patient_engagement as
select distinct on (e.source_instance_id, e.source_id)
    e.source_instance_id,
    ''::text as parent_source_id,
    e.source_id,
    e.channel,
    e.campaign_id,
    e.campaign_name,
    e.campaign_element_id,
    e.campaign_element_name,
    e.media,
    e.referral_type
from (
    select
        s.source_instance_id,
        'campaign/' || (s.data -> 'campaignElement' ->> 'id') as source_id,
        'campaign'::text as channel,
        s.data -> 'campaignElement' -> 'campaign' ->> 'id' as campaign_id,
        s.data -> 'campaignElement' -> 'campaign' ->> 'name' as campaign_name,
        s.data -> 'campaignElement' ->> 'id' as campaign_element_id,
        s.data -> 'campaignElement' ->> 'name' as campaign_element_name,
        s.data ->> 'campaignMedia' as media,
        null::text as referral_type,
        s.data ->> 'date' as touched_on,
        s.parent_source_id || '/' || s.source_id as touch
    from dim_patient_campaign_touches_staging as s
    union all
    select
        s.source_instance_id,
        'referral/' || (s.data ->> 'referralType') as source_id,
        'referral' as channel,
        null as campaign_id,
        null as campaign_name,
        null as campaign_element_id,
        null as campaign_element_name,
        null as media,
        s.data ->> 'referralType' as referral_type,
        s.data ->> 'date' as touched_on,
        s.parent_source_id || '/' || s.source_id as touch
    from dim_patient_referral_touches_staging as s
) as e
where e.source_id is not null
order by e.source_instance_id asc, e.source_id asc, e.touched_on desc nulls last, e.touch asc;
comment on view stg_dim_patient_engagement is 'What the touches say about campaign elements and kinds of referral: the newest touch has the last word.';

create or replace procedure load_dw_dim_patient_engagement(full_refresh boolean default false, inout run_id bigint default null)
language plpgsql as $$
begin
    run_id := dw_apply('load_dw_dim_patient_engagement', full_refresh, run_id);
end $$;
comment on procedure load_dw_dim_patient_engagement (boolean, bigint) is 'Loads dw_dim_patient_engagement.';

select dw_register('load_dw_dim_patient_engagement', 'type1', 15, '{dim_patient_campaign_touches_staging,dim_patient_referral_touches_staging}', derived => true);
