"""The Airflow provider: hook, operators, sensors, triggers, links and a queue provider. Needs Airflow 3.3 or later."""
