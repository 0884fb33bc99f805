-- Groups to be granted to those who log in: md_owner may do everything that needs no ownership, md_writer may change rows, md_reader
-- may read. They belong to the server and not to the database, so they are made only where that is allowed, and once.
DO $$
DECLARE
    wanted text;
BEGIN
    IF NOT (SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user) THEN
        RAISE NOTICE 'roles are left out: % may not make any', current_user;
        RETURN;
    END IF;
    FOREACH wanted IN ARRAY ARRAY['md_owner', 'md_writer', 'md_reader'] LOOP
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN', wanted);
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;  -- another database of the server has it, or makes it now
        END;
    END LOOP;
END
$$;

REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA md FROM PUBLIC;
DO $$
BEGIN
    IF (SELECT count(*) FROM pg_roles WHERE rolname IN ('md_owner', 'md_writer', 'md_reader')) < 3 THEN
        RETURN;
    END IF;
    GRANT USAGE ON SCHEMA md TO md_reader, md_writer;
    GRANT ALL ON SCHEMA md TO md_owner;
    GRANT SELECT ON ALL TABLES IN SCHEMA md TO md_reader;
    GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA md TO md_writer;
    GRANT ALL ON ALL TABLES IN SCHEMA md TO md_owner;
    GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA md TO md_writer, md_owner;
    GRANT EXECUTE ON FUNCTION md.prices, md.quantities TO md_reader;  -- the views of books ask for it
    ALTER DEFAULT PRIVILEGES IN SCHEMA md GRANT SELECT ON TABLES TO md_reader;
    ALTER DEFAULT PRIVILEGES IN SCHEMA md GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO md_writer;
    ALTER DEFAULT PRIVILEGES IN SCHEMA md GRANT ALL ON TABLES TO md_owner;
    ALTER DEFAULT PRIVILEGES IN SCHEMA md GRANT EXECUTE ON FUNCTIONS TO md_writer, md_owner;
END
$$;
