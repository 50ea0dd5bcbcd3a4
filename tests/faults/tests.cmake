# Runs that are stopped, killed or let down by their storage.
find_package(Python3 REQUIRED COMPONENTS Interpreter)
# A call that never returns, to be preloaded; without sanitizers, which would have to come first.
add_library(hang MODULE ${CMAKE_CURRENT_LIST_DIR}/hang.c)
set_target_properties(hang PROPERTIES PREFIX "" C_VISIBILITY_PRESET default COMPILE_OPTIONS "-fno-sanitize=all" LINK_OPTIONS "-fno-sanitize=all")
target_compile_definitions(hang PRIVATE _GNU_SOURCE)
foreach(fault books stopping watchdog supervise two_hosts)
  add_test(NAME faults.${fault} COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/${fault}.py)
  set_tests_properties(faults.${fault} PROPERTIES LABELS faults TIMEOUT 1800 SKIP_RETURN_CODE 77 PROCESSORS 2
    ENVIRONMENT "EBB=$<TARGET_FILE:ebb_command>;EBB_PLUGIN_NAN=$<TARGET_FILE:plugin_nan>;EBB_HANG_SHIM=$<TARGET_FILE:hang>")
endforeach()
add_test(NAME faults.slurm_run COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/slurm_run.py)
set_tests_properties(faults.slurm_run PROPERTIES LABELS faults TIMEOUT 600 SKIP_RETURN_CODE 77 PROCESSORS 2
  ENVIRONMENT "EBB=$<TARGET_FILE:ebb_command>")

# In full: EBB=build/release/apps/ebb tests/faults/campaign.py kills:200 hurts:100 schedules:20 overhead:3
add_test(NAME faults.campaign COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/campaign.py kills:5 hurts:2 schedules:1 seed:1)
set_tests_properties(faults.campaign PROPERTIES LABELS faults TIMEOUT 1800 PROCESSORS 2 ENVIRONMENT "EBB=$<TARGET_FILE:ebb_command>")

# A wall clock that goes back, to be preloaded; without sanitizers, which would have to come first.
add_library(clock_back MODULE ${CMAKE_CURRENT_LIST_DIR}/clock_back.c)
set_target_properties(clock_back PROPERTIES PREFIX "" C_VISIBILITY_PRESET default COMPILE_OPTIONS "-fno-sanitize=all" LINK_OPTIONS "-fno-sanitize=all")
add_test(NAME faults.storage COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/storage.py $<TARGET_FILE:clock_back>)
set_tests_properties(faults.storage PROPERTIES LABELS faults TIMEOUT 600 SKIP_RETURN_CODE 77 PROCESSORS 2
  ENVIRONMENT "EBB=$<TARGET_FILE:ebb_command>")
foreach(launcher srun mpirun)
  add_test(NAME faults.slurm_${launcher} COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/slurm.py ${launcher})
  set_tests_properties(faults.slurm_${launcher} PROPERTIES LABELS faults TIMEOUT 600 SKIP_RETURN_CODE 77 PROCESSORS 2
    ENVIRONMENT "EBB=$<TARGET_FILE:ebb_command>")
endforeach()

# The plug-in of the controller: in Lua alone, then in a real slurmctld.
find_program(EBB_LUA NAMES lua5.3 lua5.4 lua)
if(EBB_LUA)
  add_test(NAME faults.job_submit COMMAND ${EBB_LUA} ${CMAKE_CURRENT_LIST_DIR}/job_submit.lua
    ${PROJECT_SOURCE_DIR}/cluster/slurm/job_submit.lua ${CMAKE_CURRENT_BINARY_DIR}/job_submit.forecast)
else()
  add_test(NAME faults.job_submit COMMAND ${CMAKE_COMMAND} -E echo "SKIPPED: no Lua here")
  set_tests_properties(faults.job_submit PROPERTIES SKIP_REGULAR_EXPRESSION "SKIPPED")
endif()
set_tests_properties(faults.job_submit PROPERTIES LABELS faults TIMEOUT 600)
add_test(NAME faults.slurm_lua COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/slurm_lua.py)
set_tests_properties(faults.slurm_lua PROPERTIES LABELS faults TIMEOUT 600 SKIP_RETURN_CODE 77
  ENVIRONMENT "EBB=$<TARGET_FILE:ebb_command>")

# Jobs handed to Slurm. In full: EBB=build/release/apps/ebb tests/faults/slurm_jobs.py kills:100
add_test(NAME faults.slurm_jobs COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/slurm_jobs.py)
set_tests_properties(faults.slurm_jobs PROPERTIES LABELS faults TIMEOUT 1200 SKIP_RETURN_CODE 77 PROCESSORS 2
  ENVIRONMENT "EBB=$<TARGET_FILE:ebb_command>;EBB_PLUGIN_SLOW=$<TARGET_FILE:plugin_slow>")

# In full: build/release/tests/faults_loader 10000 and build/release/tests/kills_loader 1000
foreach(kind faults kills)
  add_executable(${kind}_loader faults/loader_${kind}.c)
  target_include_directories(${kind}_loader PRIVATE ${CMAKE_CURRENT_LIST_DIR}/../support)
  target_link_libraries(${kind}_loader PRIVATE ebb_loader cmocka)
  add_test(NAME faults.loader_${kind} COMMAND ${kind}_loader)
  set_tests_properties(faults.loader_${kind} PROPERTIES LABELS faults TIMEOUT 600)
endforeach()

# A file layer that records what reaches the disk when, and a disk that forgets. In full: build/release/tests/power_cut 200
add_executable(power_cut faults/power_cut.c)
target_include_directories(power_cut PRIVATE ${CMAKE_CURRENT_LIST_DIR}/../support)
set(wraps)
foreach(call open pwrite fallocate ftruncate fsync rename unlink mkdir close)
  list(APPEND wraps -Wl,--wrap=${call})
endforeach()
target_link_libraries(power_cut PRIVATE ebb_checkpoint cmocka ${wraps})
add_test(NAME faults.power_cut COMMAND power_cut)
set_tests_properties(faults.power_cut PROPERTIES LABELS faults TIMEOUT 600)

# A model plug-in that makes NaN where it is told to.
add_library(plugin_nan MODULE ${CMAKE_CURRENT_LIST_DIR}/plugin_nan.c)
target_include_directories(plugin_nan PRIVATE ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR}/tests)
set_target_properties(plugin_nan PROPERTIES PREFIX "")
add_test(NAME faults.finite COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/finite.py $<TARGET_FILE:plugin_nan>)
set_tests_properties(faults.finite PROPERTIES LABELS faults TIMEOUT 600 PROCESSORS 2 ENVIRONMENT "EBB=$<TARGET_FILE:ebb_command>")

# Services of carbon intensity that fail in every way, played by a local server.
add_test(NAME faults.carbon COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/carbon.py)
set_tests_properties(faults.carbon PROPERTIES LABELS faults TIMEOUT 600 SKIP_RETURN_CODE 77
  ENVIRONMENT "EBB=$<TARGET_FILE:ebb_command>")

# The queue's agent, killed again and again. In full: EBB=build/release/apps/ebb tests/faults/agent.py kills:100 keepers:20
add_test(NAME faults.agent COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/agent.py kills:6 keepers:2)
set_tests_properties(faults.agent PROPERTIES LABELS faults TIMEOUT 600 ENVIRONMENT "EBB=$<TARGET_FILE:ebb_command>")
# A model plug-in whose steps take as long on every machine.
add_library(plugin_slow MODULE ${CMAKE_CURRENT_LIST_DIR}/plugin_slow.c)
target_include_directories(plugin_slow PRIVATE ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR}/tests)
set_target_properties(plugin_slow PROPERTIES PREFIX "")
add_test(NAME faults.clean_hours COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/clean_hours.py)
set_tests_properties(faults.clean_hours PROPERTIES LABELS faults TIMEOUT 300 SKIP_RETURN_CODE 77 PROCESSORS 2
  ENVIRONMENT "EBB=$<TARGET_FILE:ebb_command>;EBB_PLUGIN_SLOW=$<TARGET_FILE:plugin_slow>")

# Jobs on sources that fail. In full: tests/faults/fail_open.py build/release/tests/fail_open jobs:10000
add_executable(fail_open ${CMAKE_CURRENT_LIST_DIR}/fail_open.c)
target_link_libraries(fail_open PRIVATE ebb_jobs)
add_test(NAME faults.fail_open COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/fail_open.py $<TARGET_FILE:fail_open> jobs:200)
set_tests_properties(faults.fail_open PROPERTIES LABELS faults TIMEOUT 600)
