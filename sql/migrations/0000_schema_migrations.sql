-- What was applied to this database: a row per numbered file, one for the replaceable objects of each kind, one for the
-- catalog. The migration inserts its row first and in its own transaction, so that two installers collide here.
create table if not exists dw_schema_migrations (
    name text primary key,
    content_hash text not null,
    applied_at timestamptz not null default now()
);
comment on table dw_schema_migrations is 'What of sql/ was applied to this database, and when.';
comment on column dw_schema_migrations.name is 'A numbered file, or what is applied again whenever it changes: bronze objects, catalog, other objects.';
comment on column dw_schema_migrations.content_hash is 'Hash of the text that was applied.';
comment on column dw_schema_migrations.applied_at is 'When it was applied last.';
