-- Values that cannot be, and values that are not as usual.
select dw_check('impossible_visits', 'warning',
    'A completed visit lies in the future, has a negative sequence, or is more than ten years from its due day.',
    $$select count(*) from dw_fact_visit
        where visited_time > now() + interval '1 day' or sequence < 0 or abs(days_from_target) > 3653$$);
select dw_check('impossible_elements', 'warning',
    'An element was completed in the future, or took less than no time or more than a month.',
    $$select count(*) from dw_fact_visit_element_response
        where event_time > now() + interval '1 day' or duration_minutes < 0 or duration_minutes > 44640$$);
select dw_check('impossible_enrollments', 'warning',
    'A subject was enrolled in the future, or treated more than a year before it was enrolled.',
    $$select count(*) from dw_fact_enrollment where event_time > now() + interval '1 day' or days_to_treatment < -366$$);
select dw_check('impossible_performance', 'error',
    'A study''s counts contradict each other: a part is larger than the whole, or a count is negative.',
    $$select count(*) from dw_fact_study_performance
        where screened > subjects or screen_failed > screened or randomized > screened
            or enrolled_last_30_days > enrolled or least(subjects, screened, enrolled, target_enrollment) < 0$$);
select dw_check('negative_amounts', 'warning',
    'A budget, a cost, a stipend or a duration is negative or not a number.',
    $$select
        (select count(*) from dw_dim_visit where is_current and (least(budget, cost, patient_stipend, caregiver_stipend) < 0
            or 'NaN' in (budget, cost, patient_stipend, caregiver_stipend)))
        + (select count(*) from dw_dim_visit_element where is_current and (least(budget, cost, standard_time_minutes) < 0 or 'NaN' in (budget, cost)))$$);
select dw_check('row_count_change', 'warning',
    'A table has less than half, or more than twice, the rows of the median of earlier checks (of at least three).',
    $$select count(*) from dw_compared_measures()
        where column_name = '' and earlier >= 3 and (value < usual / 2 or value > greatest(usual * 2, 10))$$);
select dw_check('null_rate_spike', 'warning',
    'A column is empty far more often than usual: 20 points above the median of earlier checks (of at least three).',
    $$select count(*) from dw_compared_measures() where column_name <> '' and earlier >= 3 and value > usual + 0.2$$);
